# SPDX-License-Identifier: GPL-2.0-or-later
"""List, read and delete the engine's checkpoints, which incremental backups start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pitr.errors import EngineError
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, required, utc
from pitr.ovirt.engine.wait import pauses


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint. `created` is in UTC by the engine's clock, None if the engine does not report it.

    If a checkpoint is not `valid`, no incremental backup can start from it or from the checkpoints before it.
    """

    id: str
    parent_id: str | None
    created: datetime | None
    valid: bool


def list_checkpoints(engine: Engine, vm_id: str) -> list[Checkpoint]:
    """Return the VM's checkpoints, oldest first, ordered by their parents and not by their dates.

    Raises EngineError.
    """
    found = engine.call(
        f"listing the checkpoints of VM {vm_id}", lambda system: _service(system, vm_id).list()
    )
    checkpoints = [_read(checkpoint) for checkpoint in found]
    parents = {checkpoint.id: checkpoint.parent_id for checkpoint in checkpoints}
    return sorted(checkpoints, key=lambda checkpoint: len(_ancestors(checkpoint.id, parents)))


def get_checkpoint(engine: Engine, vm_id: str, checkpoint_id: str) -> Checkpoint | None:
    """Return the checkpoint, None if it does not exist. Raises EngineError."""
    try:
        found = engine.call(
            f"reading checkpoint {checkpoint_id}",
            lambda system: _service(system, vm_id).checkpoint_service(checkpoint_id).get(),
        )
    except EngineFault as fault:
        if fault.missing:
            return None
        raise
    return _read(found)


def checkpoint_disk_ids(engine: Engine, vm_id: str, checkpoint_id: str) -> frozenset[str]:
    """Return the ids of the disks in the checkpoint, an empty set if it does not exist. Raises EngineError."""
    try:
        disks = engine.call(
            f"listing the disks of checkpoint {checkpoint_id}",
            lambda system: _service(system, vm_id).checkpoint_service(checkpoint_id).disks_service().list(),
        )
    except EngineFault as fault:
        if fault.missing:
            return frozenset()
        raise
    return frozenset(required(disk.id, "a disk's id") for disk in disks)


def delete_checkpoint(engine: Engine, vm_id: str, checkpoint_id: str, timeout_s: float = 60.0) -> None:
    """Delete the checkpoint and wait until it is gone; do nothing if it does not exist.

    Raises EngineBusy at once while a backup of the VM runs, EngineError.
    """
    for _ in pauses(timeout_s, engine.poll_interval_s):
        try:
            engine.call(
                f"deleting checkpoint {checkpoint_id}",
                lambda system: _service(system, vm_id).checkpoint_service(checkpoint_id).remove(),
            )
        except EngineFault as fault:
            if fault.missing:
                return
            if fault.status == 409:
                raise faults.as_busy(fault) from fault
            raise
        if get_checkpoint(engine, vm_id, checkpoint_id) is None:
            return
    raise EngineError(
        f"the engine still has checkpoint {checkpoint_id}, {timeout_s:.0f} s after it was deleted"
    )


def _ancestors(checkpoint_id: str, parents: Mapping[str, str | None]) -> set[str]:
    ancestors: set[str] = set()
    parent = parents.get(checkpoint_id)
    while parent is not None and parent in parents and parent not in ancestors:
        ancestors.add(parent)
        parent = parents[parent]
    return ancestors


def _service(system: Any, vm_id: str) -> Any:
    return system.vms_service().vm_service(vm_id).checkpoints_service()


def _read(checkpoint: Any) -> Checkpoint:
    checkpoint_id = required(checkpoint.id, "a checkpoint's id")
    return Checkpoint(
        id=checkpoint_id,
        parent_id=checkpoint.parent_id or None,
        created=utc(checkpoint.creation_date, f"the date of checkpoint {checkpoint_id}"),
        # A state that the SDK does not know reads as none; if it means no good, the engine refuses it.
        valid=enum_text(checkpoint.state, absent="created") == "created",
    )
