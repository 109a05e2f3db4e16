# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove the disks that earlier rollbacks have left."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.errors import NoSuchDisk
from pitr.jobs.rollback.copies import left_copies
from pitr.jobs.rollback.result import RollbackContext
from pitr.model import VMName
from pitr.ovirt.engine import Disk, delete_disk, get_disk, vm_disks
from pitr.repository import rollbacks, successions
from pitr.repository.rollbacks import OldDisk
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class DiscardedDisk:
    """A disk that was removed from the engine."""

    disk_id: str
    name: str
    size: int


def discard_old(context: RollbackContext, vm: VMName) -> list[DiscardedDisk]:
    """Remove the disks that rollbacks of the VM have left, and return them; a dry run only returns them.

    A disk stays if it is attached to the VM, or if no other disk has taken its place. Copies that a killed rollback has
    not put in place go, too. Raises EngineError, BusyError while a rollback or a backup of the VM runs.
    """
    if context.options.dry_run:
        return _discard(context, vm)
    with context.repository.lock_vm(vm):
        return _discard(context, vm)


def _discard(context: RollbackContext, vm: VMName) -> list[DiscardedDisk]:
    attached = {disk.id for disk in vm_disks(context.engine, vm.id)}
    known = successions.of_vm(context.repository.store, vm.id)
    removed: list[DiscardedDisk] = []
    for left in rollbacks.old_disks(context.repository.store, vm.id):
        # A rollback that was killed has not put another disk into its place, or somebody has attached it again.
        if left.disk_id in attached or not known.family([left.disk_id]) & attached:
            continue
        disk = _existing(context, left)
        if disk is not None:
            if not context.options.dry_run:
                delete_disk(context.engine, disk.id)
            removed.append(DiscardedDisk(disk.id, disk.name, disk.size))
        if not context.options.dry_run:
            left.end(context.repository.store)
    for copy in left_copies(context, vm):
        if copy.status != "ok":
            context.watch.notify(f"disk {printable(copy.name)} ({copy.id}) is {copy.status}, so it stays")
            continue
        if not context.options.dry_run:
            delete_disk(context.engine, copy.id)
        removed.append(DiscardedDisk(copy.id, copy.name, copy.size))
    return removed


def _existing(context: RollbackContext, left: OldDisk) -> Disk | None:
    try:
        return get_disk(context.engine, left.disk_id)
    except NoSuchDisk:
        return None
