# SPDX-License-Identifier: GPL-2.0-or-later
"""Take a VM back to a point: check, back up the present state, write what differs, and prove it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pitr.errors import EngineBusy, NoSuchPoint, NothingToContinue
from pitr.jobs.known_damage import remembering
from pitr.jobs.rollback import on_copies, undo_point
from pitr.jobs.rollback.disks import ReturningDisk, returning_disks
from pitr.jobs.rollback.in_place import (
    finish_in_place,
    planned_finish,
    still_there,
    turned_back,
    write_in_place,
)
from pitr.jobs.rollback.on_copies import write_on_copies
from pitr.jobs.rollback.result import RollbackContext, RolledBack, RolledBackDisk
from pitr.jobs.rollback.way_back import open_way_back
from pitr.model import Backup, VMName
from pitr.ovirt.engine import VM, Disk, get_vm, shut_down_vm, start_vm, vm_disks
from pitr.repository import rollbacks
from pitr.repository.rollbacks import OldDisk, UnfinishedDisk
from pitr.text import printable

_CHECK = "rollback"


def roll_back(context: RollbackContext, back_to: Backup) -> RolledBack:
    """Take the VM of `back_to` back to this point, after a backup of its present state.

    Nothing is changed before all checks have passed and the undo point is stored. Raises EngineBusy for a VM that runs,
    StoredDamage, DiskUnfinished and the errors of a backup.
    """
    with _rolling_back(context, back_to) as vm:
        disks = returning_disks(context.repository, context.engine, back_to, context.options.disks)
        if context.options.dry_run:
            return _planned(context, back_to, disks)
        _stop(context, vm)
        undo = _undo_point(context, back_to, disks)
        with context.repository.lock_vm(back_to.vm):
            _check_down(context, vm.id)
            if context.options.in_place:
                done = write_in_place(context, [each.disk.id for each in disks], undo, back_to)
            else:
                done = write_on_copies(context, disks, undo, back_to)
        return _ended(context, RolledBack(back_to, undo, done, context.options.in_place))


def undo(context: RollbackContext, vm: VMName) -> RolledBack:
    """Go back to the newest undo point: to the disks that the rollback has left, or as to any point if they are gone.

    An unfinished rollback in place is taken back.

    Raises NoSuchPoint without an undo point, and the errors of `roll_back`.
    """
    unfinished = still_there(context, rollbacks.of_vm(context.repository.store, vm.id), vm)
    if unfinished:
        return _undo_unfinished(context, vm, unfinished)
    back_to = undo_point.newest(context.repository, vm)
    left = [
        each
        for each in rollbacks.old_disks(context.repository.store, vm.id)
        if each.undo_id == back_to.known_as
    ]
    if context.options.in_place or context.options.disks or context.options.dry_run or not left:
        return roll_back(context, back_to)
    with _rolling_back(context, back_to) as found:
        present = _in_their_places(context, left)
        if present is None or not on_copies.still_there(context, left):
            context.watch.notify("the old disks are not all there any more: pitr goes back to the undo point")
        else:
            _stop(context, found)
            now = _undo_point(context, back_to, [])
            with context.repository.lock_vm(vm):
                _check_down(context, vm.id)
                done = on_copies.swap_back(context, left, present, now, back_to)
            return _ended(context, RolledBack(back_to, now, done, in_place=False))
    return roll_back(context, back_to)


def go_on(context: RollbackContext, vm: VMName) -> RolledBack:
    """End a rollback that was interrupted. Raises NothingToContinue, and the errors of `roll_back`."""
    unfinished = still_there(context, rollbacks.of_vm(context.repository.store, vm.id), vm)
    if not unfinished:
        swapping = rollbacks.unfinished_swaps(context.repository.store, vm.id)
        if swapping:
            return _go_on_swapping(context, vm, swapping)
        raise NothingToContinue(
            f"no rollback of VM {printable(vm.name)} is unfinished", "There is nothing to do."
        )
    return _finish(context, vm, unfinished)


def _finish(context: RollbackContext, vm: VMName, unfinished: Sequence[UnfinishedDisk]) -> RolledBack:
    """End a rollback in place on these disks."""
    back_to = undo_point.with_id(context.repository, unfinished[0].point_id, vm)
    before = undo_point.with_id(context.repository, unfinished[0].undo_id, vm)
    if context.options.dry_run:
        planned = planned_finish(context, unfinished, vm)
        return RolledBack(back_to, before, planned, in_place=True, dry_run=True)
    if context.options.stop:
        _stop(context, get_vm(context.engine, vm.id))
    with context.repository.lock_vm(vm), remembering(context.repository, vm.id, _CHECK):
        _check_down(context, vm.id)
        done = finish_in_place(context, unfinished, vm)
    return _ended(context, RolledBack(back_to, before, done, in_place=True))


def _undo_unfinished(
    context: RollbackContext, vm: VMName, unfinished: Sequence[UnfinishedDisk]
) -> RolledBack:
    """Take the unfinished disks of a rollback in place back to its undo point, then those that it had finished."""
    if context.options.dry_run:
        back_to = undo_point.with_id(context.repository, unfinished[0].undo_id, vm)
        planned = planned_finish(context, unfinished, vm)
        return RolledBack(back_to, None, planned, in_place=True, dry_run=True)
    stop = replace(context, options=replace(context.options, start=False))
    with context.repository.lock_vm(vm):
        unfinished = turned_back(context, unfinished)
    turned = _finish(stop, vm, unfinished)
    rest = roll_back(context, turned.point)
    return replace(rest, disks=[_with_both(disk, turned.disks) for disk in rest.disks])


def _with_both(disk: RolledBackDisk, turned: Sequence[RolledBackDisk]) -> RolledBackDisk:
    """Return the disk with what was sent to it in both steps."""
    for each in turned:
        if each.disk_id in (disk.disk_id, disk.old_disk_id):
            return replace(
                disk,
                differing_bytes=disk.differing_bytes + each.differing_bytes,
                bytes_written=disk.bytes_written + each.bytes_written,
                bytes_zeroed=disk.bytes_zeroed + each.bytes_zeroed,
                duration_s=disk.duration_s + each.duration_s,
            )
    return disk


def _go_on_swapping(context: RollbackContext, vm: VMName, left: Sequence[OldDisk]) -> RolledBack:
    """End the swap of a rollback that was killed: the copies were proven before it began."""
    before = undo_point.with_id(context.repository, left[0].undo_id, vm)
    back_to = undo_point.with_id(context.repository, left[0].point_id, vm)
    done: list[RolledBackDisk] = []
    if not context.options.dry_run:
        with context.repository.lock_vm(vm):
            _check_down(context, vm.id)
            done = on_copies.finish_swap(context, left, before, back_to)
    result = RolledBack(back_to, before, done, in_place=False, dry_run=context.options.dry_run)
    return result if context.options.dry_run else _ended(context, result)


@contextmanager
def _rolling_back(context: RollbackContext, back_to: Backup) -> Iterator[VM]:
    """Check what must hold before anything is done; keep the point while the block runs; remember damage."""
    repository = context.repository
    repository.check_opens()
    vm = get_vm(context.engine, back_to.vm.id)
    if rollbacks.of_vm(repository.store, vm.id) or rollbacks.unfinished_swaps(repository.store, vm.id):
        raise EngineBusy(
            f"an earlier rollback of VM {printable(vm.name)} is unfinished",
            f"End it with 'pitr rollback --continue {printable(vm.name)}'.",
        )
    if not context.options.stop and not context.options.dry_run:
        _check_down(context, vm.id)
    with repository.reading_vm(back_to.vm), remembering(repository, vm.id, _CHECK):
        yield vm


def _check_down(context: RollbackContext, vm_id: str) -> None:
    vm = get_vm(context.engine, vm_id)
    if vm.status != "down":
        raise EngineBusy(
            f"VM {printable(vm.name)} is {vm.status}: a rollback changes disks only while it is down",
            "Shut it down, or let pitr do it with --stop.",
        )


def _stop(context: RollbackContext, vm: VM) -> None:
    if vm.status == "down":
        return
    context.watch.notify(f"shutting down VM {printable(vm.name)}")
    shut_down_vm(context.engine, vm.id)


def _undo_point(context: RollbackContext, back_to: Backup, disks: Sequence[ReturningDisk]) -> Backup:
    name = printable(back_to.vm.name)
    context.watch.notify(f"backing up VM {name} as it is now: the undo point")
    with context.watch.progress(f"undo point of {name}") as progress:
        taken = undo_point.take(
            context.repository,
            context.engine,
            back_to,
            workers=context.options.workers,
            progress=progress,
            notify=context.watch.notify,
        )
    for each in disks:
        if taken.stream_of(each.disk.id) is None:
            raise NoSuchPoint(
                f"the undo point does not hold disk {each.name}, so pitr changed nothing",
                "'pitr show' says why the backup left the disk out.",
            )
    context.watch.notify(f"the undo point is {taken.backup_id}")
    return taken


def _in_their_places(context: RollbackContext, left: Sequence[OldDisk]) -> list[Disk] | None:
    """Return the VM's disks that took the places of these; None if one of them is gone, or an old one is attached."""
    attached = {disk.id: disk for disk in vm_disks(context.engine, left[0].vm_id)}
    if any(each.in_place not in attached or each.disk_id in attached for each in left):
        return None
    return [attached[each.in_place] for each in left]


def _planned(context: RollbackContext, back_to: Backup, disks: Sequence[ReturningDisk]) -> RolledBack:
    """Return what differs between the newest point and `back_to`: the disks themselves may have changed since."""
    repository = context.repository
    newest = repository.catalog_of_vm(back_to.vm.id).points(back_to.vm.id)[0]
    planned: list[RolledBackDisk] = []
    for each in disks:
        now = undo_point.stream_in(repository, newest, each.disk.id)
        differing = each.disk.size
        if now is not None:
            with open_way_back(
                repository, (newest, now), (back_to, each.stream), workers=context.options.workers
            ) as way:
                differing = way.differing_bytes
        planned.append(RolledBackDisk(each.disk.id, each.disk.name, differing, 0, 0, 0.0, verified=False))
    return RolledBack(back_to, None, planned, context.options.in_place, dry_run=True)


def _ended(context: RollbackContext, result: RolledBack) -> RolledBack:
    if context.options.start:
        context.watch.notify(f"starting VM {printable(result.point.vm.name)}")
        start_vm(context.engine, result.point.vm.id)
    return result
