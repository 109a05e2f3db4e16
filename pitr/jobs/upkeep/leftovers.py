# SPDX-License-Identifier: GPL-2.0-or-later
"""Note what pitr starts on the engine, and end the leftovers of earlier runs.

pitr only ends backups that the repository notes. It never touches backups, transfers and checkpoints of other
products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pitr.errors import EngineError, NoSuchVM, PitrError
from pitr.model import Backup, VMName
from pitr.ovirt.engine import (
    VM,
    Engine,
    RunningBackup,
    backup_snapshots,
    delete_checkpoint,
    end_leftovers,
    find_vm,
    is_left_over,
    leftover_checkpoint,
    list_checkpoints,
)
from pitr.reporting import Notify
from pitr.repository import Repository, notes, pending
from pitr.repository.pairs import Lists
from pitr.text import printable


@contextmanager
def noted(repository: Repository, vm_id: str, running: RunningBackup) -> Iterator[RunningBackup]:
    """Enter `running`; note its id while it may be open on the engine, and its checkpoint permanently."""
    store = repository.store
    pending.add(store, vm_id, running.id)
    try:
        with running:
            _note_checkpoint(repository, vm_id, running.started.checkpoint_id)
            yield running
    except BaseException:
        # If the engine does not answer, the next run asks again.
        with suppress(PitrError):
            if running.has_ended():
                _note_checkpoint(repository, vm_id, running.checkpoint_id())
                pending.end(store, vm_id, running.id)
        raise
    pending.end(store, vm_id, running.id)


def _note_checkpoint(repository: Repository, vm_id: str, checkpoint_id: str | None) -> None:
    if checkpoint_id is not None:
        notes.add_checkpoint(repository.store, vm_id, checkpoint_id)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A backup that a run noted and did not end; `is_open`: it was still open on the engine."""

    vm: VMName
    backup_id: str
    is_open: bool


def end_of_vm(
    repository: Repository, engine: Engine, vm: VM, *, dry_run: bool = False, states: Lists | None = None
) -> list[Leftover]:
    """End the leftovers of earlier runs on a VM; `dry_run` only lists them. The caller holds the VM's lock.

    `states` has listed them already. Raises EngineError.
    """
    store, leftovers = repository.store, []
    for backup_id in sorted(pending.of_vm(states or store, vm.id)):
        if dry_run:
            was_open = is_left_over(engine, vm, backup_id)
        else:
            was_open = end_leftovers(engine, vm, backup_id)
            # Not before: the engine creates the checkpoint while the backup starts.
            _note_checkpoint(repository, vm.id, leftover_checkpoint(engine, vm, backup_id))
            pending.end(store, vm.id, backup_id)
        leftovers.append(Leftover(VMName(vm.id, vm.name), backup_id, was_open))
    return leftovers


def noted_vms(repository: Repository) -> list[str]:
    """Return the ids of the VMs that have a noted backup."""
    return pending.vms(repository.store)


def end_all(
    repository: Repository,
    engine: Engine,
    vms: Sequence[str],
    *,
    dry_run: bool = False,
    notify: Notify,
) -> list[Leftover]:
    """End the leftovers of earlier runs on the VMs with these ids or names, as the engine knows them.

    Raises BusyError if one of the VMs is being backed up; EngineError.
    """
    leftovers: list[Leftover] = []
    for name in vms:
        try:
            vm = find_vm(engine, name)
        except NoSuchVM:
            notify(f"VM {printable(name)} does not exist on the engine: it has no leftovers")
            continue
        if dry_run:
            leftovers += end_of_vm(repository, engine, vm, dry_run=True)
        else:
            with repository.lock_vm(VMName(vm.id, vm.name)):
                leftovers += end_of_vm(repository, engine, vm)
    return leftovers


def remove_old_checkpoints(
    repository: Repository, engine: Engine, vm: VM, newest: Backup, states: Lists, notify: Notify
) -> None:
    """Remove pitr's checkpoints that are older than the one of `newest`, where the next incremental starts.

    `states` lists those that earlier runs noted. If the engine refuses, the next run tries again: no backup depends on
    old checkpoints.
    """
    store = repository.store
    if newest.checkpoint_id is None:
        return
    noted_ids = set(notes.checkpoints(states, vm.id))
    points = repository.catalog_of_vm(vm.id).points(vm.id)
    ours = noted_ids | {point.checkpoint_id or "" for point in points}
    try:
        # From root to leaf: the oldest comes first.
        on_engine = [checkpoint.id for checkpoint in list_checkpoints(engine, vm.id)]
        if newest.checkpoint_id not in on_engine:
            return
        for checkpoint_id in on_engine[: on_engine.index(newest.checkpoint_id)]:
            if checkpoint_id in ours:
                delete_checkpoint(engine, vm.id, checkpoint_id)
        for checkpoint_id in noted_ids - {newest.checkpoint_id}:
            notes.forget_checkpoint(store, vm.id, checkpoint_id)
    except EngineError as error:
        notify(f"cannot remove old checkpoints of VM {printable(vm.name)} now: {error.message}")


def warn_of_snapshots(engine: Engine, vm: VM, notify: Notify) -> None:
    """Warn of snapshots that the engine took for backups and did not remove: they grow and slow down the VM.

    The user must remove them: the engine tried, and its events say why it could not.
    """
    try:
        left = backup_snapshots(engine, vm.id)
    except EngineError as error:
        notify(f"cannot check VM {printable(vm.name)} for snapshots left by backups: {error.message}")
        return
    for snapshot_id in left:
        notify(
            f"VM {printable(vm.name)} still has snapshot {snapshot_id}, which the engine took for a backup: remove it "
            "(event 10813 says why the engine could not)"
        )
