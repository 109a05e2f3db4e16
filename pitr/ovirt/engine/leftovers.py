# SPDX-License-Identifier: GPL-2.0-or-later
"""End the leftovers of a killed run: its open backup and transfers."""

from __future__ import annotations

from pitr.ovirt.engine.backups import BackupRequest, start_backup
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.transfers import Transfer
from pitr.ovirt.engine.vms import VM


def end_leftovers(engine: Engine, vm: VM, backup_id: str, *, timeout_s: float = 600.0) -> bool:
    """End the backup with this id, its downloads first, and return whether it was open.

    The caller recorded the id before it started the backup. The engine does not report which backup a download
    belongs to, but while the backup runs, no other client can download its disks.

    Raises EngineError after a timeout.
    """
    backup = start_backup(engine, vm, BackupRequest((), backup_id), timeout_s=timeout_s)
    if backup.has_ended():
        return False
    for disk_id in backup.listed_disk_ids():
        for transfer in Transfer.left_behind(engine, disk_id, "download", timeout_s=timeout_s):
            engine.log.info(
                "ending transfer %s of disk %s, which a killed run left open", transfer.id, disk_id
            )
            transfer.end_early()
    engine.log.info("ending backup %s of VM %s, which a killed run left open", backup_id, vm.name)
    backup.end_early()
    return True


def is_left_over(engine: Engine, vm: VM, backup_id: str) -> bool:
    """Return whether the backup with this id is open on the engine. Raises EngineError."""
    return not start_backup(engine, vm, BackupRequest((), backup_id)).has_ended()


def leftover_checkpoint(engine: Engine, vm: VM, backup_id: str) -> str | None:
    """Return the id of the checkpoint that the backup created, None if the engine has none. Raises EngineError."""
    return start_backup(engine, vm, BackupRequest((), backup_id)).checkpoint_id()
