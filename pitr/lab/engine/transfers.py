# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's operations on image transfers: start, read, finalize, cancel, pause, resume."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.lab.engine import refusals, transfer_run
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.state import Backup, Disk, Transfer, new_id

DEFAULT_INACTIVITY_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class NewTransfer:
    """A client's request; `disk_id` is None if it has none."""

    disk_id: str | None
    direction: str = "upload"
    format: str | None = None
    backup_id: str | None = None
    inactivity_timeout_s: int | None = None
    timeout_policy: str = "legacy"
    shallow: bool = False
    host_id: str | None = None


def start(installation: Installation, wanted: NewTransfer) -> Transfer:
    """Start a transfer and return it in phase initializing. Raises Refusal."""
    state = installation.state
    with state.lock:
        if wanted.disk_id is None:
            raise refusals.incomplete("ImageTransfer", "disk.id|snapshot.id")
        if wanted.host_id not in {None, state.host_id}:
            raise refusals.Missing("host", str(wanted.host_id))
        disk = state.disk(wanted.disk_id)
        backup = None
        if wanted.backup_id is not None:
            state.forget_old()
            if wanted.backup_id not in state.backups:
                raise refusals.Missing("backup", wanted.backup_id)
            backup = state.backups[wanted.backup_id]
        _check(installation, wanted, disk, backup)
        transfer = Transfer(
            id=new_id(),
            disk_id=disk.id,
            direction=wanted.direction,
            format="raw",
            backup_id=wanted.backup_id,
            inactivity_timeout_s=wanted.inactivity_timeout_s or DEFAULT_INACTIVITY_TIMEOUT_S,
            timeout_policy=wanted.timeout_policy,
            shallow=wanted.shallow,
        )
        state.transfers[transfer.id] = transfer
        disk.status = "locked"
    transfer_run.start(installation, transfer, disk, backup)
    return transfer


def ask(installation: Installation, transfer_id: str, action: str) -> None:
    """Finalize or cancel. Like the engine, report success for a missing or ended transfer."""
    state = installation.state
    with state.lock:
        state.forget_old()
        transfer = state.transfers.get(transfer_id)
        if transfer is None or transfer.ended or transfer.asked in {"finalize", "cancel"}:
            return
        transfer.asked = action
        state.lock.notify_all()


def pause(installation: Installation, transfer_id: str) -> None:
    """Pause an upload. Raises Refusal: Missing; 400 for a download."""
    state = installation.state
    with state.lock:
        transfer = state.transfer(transfer_id)
        if transfer.direction == "download":
            raise refusals.bad_request("Cannot pause image transfer. Pausing a download is not supported.")
        if transfer.phase not in {"initializing", "transferring"} or transfer.asked is not None:
            raise refusals.conflict(f"Cannot pause image transfer. Its phase is {transfer.phase}.")
        transfer.asked = "pause"
        state.lock.notify_all()


def resume(installation: Installation, transfer_id: str) -> None:
    """Resume a paused transfer. Raises Refusal: Missing; 409 when it is not paused."""
    state = installation.state
    with state.lock:
        transfer = state.transfer(transfer_id)
        if not transfer.phase.startswith("paused_"):
            raise refusals.conflict("Cannot resume image transfer. The image transfer is not paused.")
        transfer.phase = "resuming"
        transfer.history.append("resuming")
        transfer.asked = "resume"
        state.lock.notify_all()


def _check(installation: Installation, wanted: NewTransfer, disk: Disk, backup: Backup | None) -> None:
    state = installation.state
    if backup is not None:
        if wanted.direction == "upload":
            raise refusals.bad_request("Cannot transfer Virtual Disk. A backup can only be downloaded.")
        if wanted.format == "cow":
            raise refusals.format_not_applicable()
        if backup.phase != "ready":
            raise refusals.backup_not_ready(backup.phase)
        if disk.id not in backup.disks:
            raise refusals.conflict(
                f"Cannot transfer Virtual Disk. The disk {disk.name} is not included in the VM backup."
            )
    if state.active_transfers(disk_id=disk.id) or (backup is None and disk.status == "locked"):
        raise refusals.disks_locked("transfer Virtual Disk", [disk.name])
    if backup is not None:
        return
    if disk.status != "ok":
        raise refusals.conflict(f"Cannot transfer Virtual Disk. The disk {disk.name} is {disk.status}.")
    running = [
        vm.name for vm in state.vms_of(disk.id) if vm.status != "down" and vm.attachments[disk.id].active
    ]
    if running:
        raise refusals.conflict(
            "Cannot transfer Virtual Disk. "
            f"The disk {disk.name} is plugged to VM {running[0]}, which is not down."
        )
    if (wanted.format or disk.format) != "raw":
        raise refusals.bad_request(
            "Cannot transfer Virtual Disk. This simulated engine transfers in format raw only."
        )
