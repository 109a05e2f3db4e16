# SPDX-License-Identifier: GPL-2.0-or-later
"""Detach and rename disks that are attached to a VM."""

from __future__ import annotations

from typing import Any

from ovirtsdk4 import types

from pitr.ovirt.engine import faults
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault


def detach_disk(engine: Engine, vm_id: str, disk_id: str) -> None:
    """Detach the disk from the VM without deleting it; do nothing if it is not attached.

    Raises EngineBusy, EngineError.
    """
    try:
        engine.call(
            f"detaching disk {disk_id} from VM {vm_id}",
            lambda system: _service(system, vm_id, disk_id).remove(detach_only=True),
        )
    except EngineFault as fault:
        if fault.missing:
            return
        raise faults.as_busy(fault) if fault.busy else fault from fault


def rename_attached_disk(engine: Engine, vm_id: str, disk_id: str, name: str) -> None:
    """Rename a disk that is attached to the VM. Raises EngineBusy, EngineError."""
    change = types.DiskAttachment(disk=types.Disk(name=name))
    try:
        engine.call(
            f"renaming disk {disk_id}", lambda system: _service(system, vm_id, disk_id).update(change)
        )
    except EngineFault as fault:
        raise faults.as_busy(fault) if fault.busy else fault from fault


def _service(system: Any, vm_id: str, disk_id: str) -> Any:
    attachments = system.vms_service().vm_service(vm_id).disk_attachments_service()
    return attachments.attachment_service(disk_id)
