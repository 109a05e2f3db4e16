# SPDX-License-Identifier: GPL-2.0-or-later
"""What pitr has begun on the engine: noted before it begins, ended by the next run when the one before was killed.

Only what is noted in the repository is touched: another product's backups, transfers and checkpoints are not.
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
from pitr.repository import Repository, names, notes, pending
from pitr.text import printable


@contextmanager
def noted(repository: Repository, vm_id: str, running: RunningBackup) -> Iterator[RunningBackup]:
    """Enter `running`; its id is written down as long as it may be open on the engine, its checkpoint for good."""
    store = repository.store
    pending.add(store, vm_id, running.id)
    try:
        with running:
            _note_checkpoint(repository, vm_id, running.started.checkpoint_id)
            yield running
    except BaseException:
        # Where the engine cannot tell, the next run asks again.
        with suppress(PitrError):
            if running.has_ended():
                _note_checkpoint(repository, vm_id, running.checkpoint_id())
                pending.remove(store, vm_id, running.id)
        raise
    pending.remove(store, vm_id, running.id)


def _note_checkpoint(repository: Repository, vm_id: str, checkpoint_id: str | None) -> None:
    if checkpoint_id is not None:
        notes.add_checkpoint(repository.store, vm_id, checkpoint_id)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A backup that a run noted and did not end: `is_open` on the engine, or only noted."""

    vm: VMName
    backup_id: str
    is_open: bool


def end_of_vm(repository: Repository, engine: Engine, vm: VM, *, dry_run: bool = False) -> list[Leftover]:
    """End what earlier runs, killed or cut off, have left open of a VM. The caller holds the VM's lock.

    With `dry_run` it is only looked for. Raises EngineError.
    """
    store, found = repository.store, []
    for backup_id in sorted(pending.of_vm(store, vm.id)):
        if dry_run:
            was_open = is_left_over(engine, vm, backup_id)
        else:
            was_open = end_leftovers(engine, vm, backup_id)
            # Only now it is certain whether there is one: the engine makes it while the backup starts.
            _note_checkpoint(repository, vm.id, leftover_checkpoint(engine, vm, backup_id))
            pending.remove(store, vm.id, backup_id)
        found.append(Leftover(VMName(vm.id, vm.name), backup_id, was_open))
    return found


def noted_vms(repository: Repository) -> list[str]:
    """The ids of the VMs of which a backup is noted as begun."""
    return sorted({name.split("/")[1] for name in repository.store.list(names.PENDING)})


def end_all(
    repository: Repository,
    engine: Engine,
    vms: Sequence[str],
    *,
    dry_run: bool = False,
    notify: Notify,
) -> list[Leftover]:
    """End what earlier runs have left of the VMs with these ids or names, as the engine knows them.

    Raises BusyError for one that is being backed up, EngineError.
    """
    found: list[Leftover] = []
    for name in vms:
        try:
            vm = find_vm(engine, name)
        except NoSuchVM:
            notify(f"VM {printable(name)} does not exist on the engine: nothing of it can be open")
            continue
        if dry_run:
            found += end_of_vm(repository, engine, vm, dry_run=True)
        else:
            with repository.lock_vm(VMName(vm.id, vm.name)):
                found += end_of_vm(repository, engine, vm)
    return found


def remove_old_checkpoints(
    repository: Repository, engine: Engine, vm: VM, newest: Backup, notify: Notify
) -> None:
    """Remove pitr's checkpoints from before that of `newest`, oldest first: the next incremental starts there.

    What cannot be removed is left to the next run: nothing depends on it.
    """
    store = repository.store
    if newest.checkpoint_id is None:
        return
    ours = set(notes.checkpoints(store, vm.id))
    ours |= {point.checkpoint_id or "" for point in repository.catalog.points(vm.id)}
    try:
        # Root to leaf, so that the oldest comes first.
        on_engine = [checkpoint.id for checkpoint in list_checkpoints(engine, vm.id)]
        if newest.checkpoint_id not in on_engine:
            return
        for checkpoint_id in on_engine[: on_engine.index(newest.checkpoint_id)]:
            if checkpoint_id in ours:
                delete_checkpoint(engine, vm.id, checkpoint_id)
        for checkpoint_id in set(notes.checkpoints(store, vm.id)) - {newest.checkpoint_id}:
            notes.remove_checkpoint(store, vm.id, checkpoint_id)
    except EngineError as error:
        notify(f"old checkpoints of VM {printable(vm.name)} stay for now: {error.message}")


def tell_of_snapshots(engine: Engine, vm: VM, notify: Notify) -> None:
    """Tell of snapshots that the engine took for backups and did not remove: they grow, and slow the VM down.

    A person removes them: the engine tried, and its events say why it could not.
    """
    try:
        left = backup_snapshots(engine, vm.id)
    except EngineError as error:
        notify(f"whether VM {printable(vm.name)} has snapshots left of backups is not known: {error.message}")
        return
    for snapshot_id in left:
        notify(
            f"VM {printable(vm.name)} still has snapshot {snapshot_id}, which the engine took for a backup: remove it "
            "(event 10813 says why the engine could not)"
        )
