# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of the copies that a rollback lets the engine make, and copies that a killed rollback has left.

Only the alias tells which disk is a copy. It has the old alias, the time, and the begin of the undo point's id. So two
disks with one name, and two rollbacks at one moment, have copies with different names, and no other disk is taken for
a copy.
"""

from __future__ import annotations

import re

from pitr import times
from pitr.jobs.rollback.result import RollbackContext
from pitr.model import Backup, VMName
from pitr.ovirt.engine import Disk, disks_named_like, vm_disks
from pitr.repository import rollbacks

_ID_LENGTH = 8
_COPY = re.compile(r"_rollback_[0-9]{8}T[0-9]{6}Z_([0-9a-f]{8})(?:_[0-9]+)?$")


def suffixes(undo: Backup, count: int) -> list[str]:
    """Return what copies of so many disks get at the end of their aliases."""
    suffix = f"_rollback_{times.now():%Y%m%dT%H%M%SZ}_{undo.known_as[:_ID_LENGTH]}"
    return [suffix, *(f"{suffix}_{number}" for number in range(1, count))]


def left_copies(context: RollbackContext, vm: VMName) -> list[Disk]:
    """Return the copies that killed rollbacks of the VM have left: no rollback uses them. Raises EngineError.

    No rollback of the VM may run at the same time.
    """
    repository, engine = context.repository, context.engine
    ours = {backup.known_as[:_ID_LENGTH] for backup in repository.catalog_of_vm(vm.id).points(vm.id)}
    used = {disk.id for disk in vm_disks(engine, vm.id)}
    used |= {each.in_place for each in rollbacks.old_disks(repository.store, vm.id)}
    return [
        disk
        for disk in disks_named_like(engine, "*_rollback_*")
        if disk.id not in used and _undo_id(disk) in ours
    ]


def _undo_id(disk: Disk) -> str | None:
    found = _COPY.search(disk.name)
    return found[1] if found is not None else None
