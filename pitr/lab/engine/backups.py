# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's operations on backups: start, read, finalize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.lab.engine import backup_run, events, refusals
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.state import VM, Backup, new_id

#: From this compatibility version on, the engine takes backups from a snapshot.
HYBRID_SINCE = (4, 7)


@dataclass(frozen=True, slots=True)
class NewBackup:
    """What a client asks for."""

    disk_ids: Sequence[str]
    id: str | None = None
    from_checkpoint_id: str | None = None
    description: str = ""
    require_consistency: bool = False
    legacy: bool = False
    correlation_id: str | None = None


def start(installation: Installation, vm_id: str, wanted: NewBackup) -> Backup:
    """Start a backup and return it in phase initializing. Raises Refusal with the engine's text."""
    state = installation.state
    with state.lock:
        vm = state.vm(vm_id)
        _check(installation, vm, wanted)
        if vm.chain_breaks and wanted.from_checkpoint_id is not None:
            vm.chain_breaks = False
            backup = _add(installation, vm, wanted)
            backup_run.lose_chain(installation, vm, backup)
            raise refusals.chain_lost()
        backup = _add(installation, vm, wanted)
    events.record(
        installation,
        events.BACKUP_STARTED,
        f"Backup {backup.id} for VM {vm.name} started.",
        subject_id=backup.id,
        vm_id=vm.id,
        correlation_id=wanted.correlation_id,
    )
    backup_run.start(installation, vm, backup)
    return backup


def finalize(installation: Installation, vm_id: str, backup_id: str) -> None:
    """Request the end of a backup.

    Raises Refusal: Missing; 400 when it has ended already; 409 while transfers run; and before it is ready
    a live or cold backup fails, with 400.
    """
    state = installation.state
    with state.lock:
        backup = state.backup(vm_id, backup_id)
        if backup.ended or backup.phase == "finalizing":
            raise refusals.backup_already(backup.phase)
        if state.active_transfers(backup_id=backup_id):
            raise refusals.active_transfer()
        if backup.phase != "ready" and backup.mode != "hybrid":
            backup.abort_asked = True
            state.lock.notify_all()
            raise refusals.backup_not_ready_to_stop(backup.phase)
        backup.finalize_asked = True
        if backup.phase == "ready":
            backup_run.set_phase(installation, backup, "finalizing")
        state.lock.notify_all()


def mode_of(vm: VM, *, legacy: bool) -> str:
    version = tuple(int(number) for number in vm.compat.split("."))
    if version >= HYBRID_SINCE and not legacy:
        return "hybrid"
    return "live" if vm.running else "cold"


def _check(installation: Installation, vm: VM, wanted: NewBackup) -> None:
    state = installation.state
    if not wanted.disk_ids:
        raise refusals.incomplete("Backup", "disks")
    if state.running_backup(vm.id) is not None:
        raise refusals.during_backup()
    if vm.origin == "managed_hosted_engine":
        raise refusals.hosted_engine()
    if vm.status not in {"up", "down"}:
        raise refusals.vm_not_up_or_down()
    if vm.previewing:
        raise refusals.vm_previews_snapshot()
    if wanted.id is not None and wanted.id in state.backups:
        raise refusals.backup_exists(wanted.id)
    missing = [disk_id for disk_id in wanted.disk_ids if disk_id not in state.disks]
    if missing:
        raise refusals.disks_missing(missing)
    inactive = [
        state.disk(disk_id).name
        for disk_id in wanted.disk_ids
        if disk_id not in vm.attachments or not vm.attachments[disk_id].active
    ]
    if inactive:
        raise refusals.disks_not_active(vm.name, inactive)
    locked = [state.disk(disk_id).name for disk_id in wanted.disk_ids if state.disk(disk_id).status != "ok"]
    if locked:
        raise refusals.disks_locked("backup VM", locked)
    _check_checkpoint(vm, wanted.from_checkpoint_id)


def _check_checkpoint(vm: VM, checkpoint_id: str | None) -> None:
    if checkpoint_id is None:
        return
    for checkpoint in vm.checkpoints:
        if checkpoint.id == checkpoint_id:
            if checkpoint.state == "invalid":
                raise refusals.checkpoint_invalid(checkpoint_id)
            return
    raise refusals.checkpoint_missing(checkpoint_id)


def _add(installation: Installation, vm: VM, wanted: NewBackup) -> Backup:
    state = installation.state
    since = None
    if wanted.from_checkpoint_id is not None:
        since = next(each for each in vm.checkpoints if each.id == wanted.from_checkpoint_id)
    readable = {} if since is None else dict.fromkeys(since.disk_ids, since.id)
    now = installation.clock.now()
    backup = Backup(
        id=wanted.id or new_id(),
        vm_id=vm.id,
        mode=mode_of(vm, legacy=wanted.legacy),
        # The engine reads a disk that is not in the checkpoint in full, without an error.
        disks={disk_id: readable.get(disk_id) for disk_id in dict.fromkeys(wanted.disk_ids)},
        created=now,
        modified=now,
        description=wanted.description,
        from_checkpoint_id=wanted.from_checkpoint_id,
        require_consistency=wanted.require_consistency,
        correlation_id=wanted.correlation_id,
    )
    for disk_id in backup.disks:
        state.disk(disk_id).status = "locked"
    state.backups[backup.id] = backup
    return backup


def disks(installation: Installation, vm_id: str, backup_id: str) -> list[tuple[str, str]]:
    """Return the id and backup mode of each disk; in hybrid mode only when the backup is ready."""
    with installation.state.lock:
        backup = installation.state.backup(vm_id, backup_id)
        if backup.mode == "hybrid" and backup.phase in {"initializing", "starting"}:
            return []
        return [(each, "full" if since is None else "incremental") for each, since in backup.disks.items()]
