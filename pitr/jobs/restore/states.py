# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of new disks and VMs after a restore. The restore is complete, so no failure here is an error."""

from __future__ import annotations

from pitr.errors import Interrupted, PitrError
from pitr.jobs.restore.outcome import TargetVM
from pitr.ovirt.engine import Engine, get_disk, get_vm


def disk_status(engine: Engine, disk_id: str) -> str | None:
    """Return the status of a disk on the engine; None if the engine does not tell it."""
    try:
        return get_disk(engine, disk_id).status
    except Interrupted:
        raise
    except PitrError:
        return None


def vm_as_it_is(engine: Engine, vm_id: str) -> TargetVM:
    """Return the VM with its status; without one, and with its id as the name, if the engine does not tell it."""
    try:
        vm = get_vm(engine, vm_id)
    except Interrupted:
        raise
    except PitrError:
        return TargetVM(vm_id, vm_id, None)
    return TargetVM(vm.id, vm.name, vm.status)
