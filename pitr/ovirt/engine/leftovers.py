# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run that was killed left on the engine, ended by the next one."""

from __future__ import annotations

from pitr.ovirt.engine.backups import BackupRequest, start_backup
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.transfers import Transfer
from pitr.ovirt.engine.vms import VM


def end_leftovers(engine: Engine, vm: VM, backup_id: str, *, timeout_s: float = 600.0) -> bool:
    """End the backup that carries this id, its downloads first; return whether there was anything to end.

    The caller has recorded the id before it started the backup. While that runs nobody else can download its
    disks, so that their open downloads are the backup's own, although no answer of the engine says so.

    Raises EngineError when no end comes.
    """
    backup = start_backup(engine, vm, BackupRequest((), backup_id), timeout_s=timeout_s)
    if backup.has_ended():
        return False
    for disk_id in backup.listed_disk_ids():
        for transfer in Transfer.left_behind(engine, disk_id, "download", timeout_s=timeout_s):
            engine.log.info("ending transfer %s of disk %s, left behind", transfer.id, disk_id)
            transfer.end_early()
    engine.log.info("ending backup %s of VM %s, left behind", backup_id, vm.name)
    backup.end_early()
    return True


def is_left_over(engine: Engine, vm: VM, backup_id: str) -> bool:
    """Whether the backup that carries this id is open on the engine. Raises EngineError."""
    return not start_backup(engine, vm, BackupRequest((), backup_id)).has_ended()


def leftover_checkpoint(engine: Engine, vm: VM, backup_id: str) -> str | None:
    """The id of the checkpoint that the backup has made, if the engine still knows. Raises EngineError."""
    return start_backup(engine, vm, BackupRequest((), backup_id)).checkpoint_id()
