# SPDX-License-Identifier: GPL-2.0-or-later
"""Write what differs into the VM's own disks.

The engine removes the disk of an upload that fails, so these uploads are paused after trouble and never cancelled. Each
disk is noted as unfinished before its first byte, so that a later run can go on: all that differs is then sent again.
All of the point is read before the first byte, so that damage of stored data leaves no disk unfinished.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pitr.errors import DiskRemoved, DiskUnfinished, Interrupted, NoSuchDisk, PitrError
from pitr.jobs.rollback import undo_point
from pitr.jobs.rollback.proof import differs, holds
from pitr.jobs.rollback.result import RollbackContext, RolledBackDisk
from pitr.jobs.rollback.way_back import WayBack, open_way_back
from pitr.model import Backup, VMName
from pitr.ovirt.differences import Sent, send_difference, upload_checksum
from pitr.ovirt.engine import Disk, InPlaceUpload, disk_exists, get_disk, open_uploads, start_in_place
from pitr.ovirt.imageio.checksum import DiskChecksum, checksum
from pitr.repository import notes, rollbacks
from pitr.repository.rollbacks import UnfinishedDisk
from pitr.text import printable


def write_in_place(
    context: RollbackContext, disk_ids: Sequence[str], undo: Backup, back_to: Backup
) -> list[RolledBackDisk]:
    """Take these disks of the VM back. They must hold the point `undo` now.

    Raises DiskUnfinished, DiskRemoved, and other errors if nothing was changed.
    """
    with ExitStack() as ways:
        writings = [_prepared(context, ways, disk_id, undo, back_to) for disk_id in disk_ids]
        begun = rollbacks.begin(
            context.repository.store, undo.vm.id, disk_ids, undo.known_as, back_to.known_as
        )
        return _write_all(context, begun, writings, undo.vm, any_state=False)


def finish_in_place(
    context: RollbackContext, unfinished: Sequence[UnfinishedDisk], vm: VMName
) -> list[RolledBackDisk]:
    """Take disks back that may hold a part of both states, or anything else: then a disk is written as a whole.

    Raises the same as `write_in_place`.
    """
    with ExitStack() as ways:
        writings = [
            _prepared(context, ways, each.disk_id, *_points(context, each, vm)) for each in unfinished
        ]
        return _write_all(context, unfinished, writings, vm, any_state=True)


def planned_finish(
    context: RollbackContext, unfinished: Sequence[UnfinishedDisk], vm: VMName
) -> list[RolledBackDisk]:
    """Return what finishing these disks would send."""
    planned: list[RolledBackDisk] = []
    for each in unfinished:
        with ExitStack() as ways:
            disk, way = _way(context, ways, each.disk_id, *_points(context, each, vm))
            planned.append(RolledBackDisk(disk.id, disk.name, way.differing_bytes, 0, 0, 0.0, verified=False))
    return planned


def turned_back(context: RollbackContext, unfinished: Sequence[UnfinishedDisk]) -> list[UnfinishedDisk]:
    """Note that these disks go back to their undo points instead, and return the new notes."""
    store = context.repository.store
    turned: list[UnfinishedDisk] = []
    for each in unfinished:
        turned += rollbacks.begin(store, each.vm_id, [each.disk_id], each.point_id, each.undo_id)
        each.end(store)
    return turned


def still_there(
    context: RollbackContext, unfinished: Sequence[UnfinishedDisk], vm: VMName
) -> list[UnfinishedDisk]:
    """Return the disks that the engine still has; end the notes of the others, and tell how to restore them."""
    there: list[UnfinishedDisk] = []
    for each in unfinished:
        if disk_exists(context.engine, each.disk_id):
            there.append(each)
            continue
        context.watch.notify(f"disk {each.disk_id} is gone. {_restore_advice(each, vm)}")
        if not context.options.dry_run:
            each.end(context.repository.store)
    return there


def _restore_advice(unfinished: UnfinishedDisk, vm: VMName) -> str:
    return (
        f"Restore it with 'pitr restore {printable(vm.name)} --point {unfinished.point_id} "
        f"--disk {unfinished.disk_id} --replace'."
    )


@dataclass(frozen=True, slots=True)
class _Writing:
    """A disk, what it must get written, and the checksum that it then has."""

    disk: Disk
    way: WayBack
    expected: DiskChecksum


def _points(context: RollbackContext, unfinished: UnfinishedDisk, vm: VMName) -> tuple[Backup, Backup]:
    return (
        undo_point.with_id(context.repository, unfinished.undo_id, vm),
        undo_point.with_id(context.repository, unfinished.point_id, vm),
    )


def _way(
    context: RollbackContext, ways: ExitStack, disk_id: str, undo: Backup, back_to: Backup
) -> tuple[Disk, WayBack]:
    repository, workers = context.repository, context.options.workers
    disk = get_disk(context.engine, disk_id)
    now = undo_point.stream_in(repository, undo, disk.id)
    then = undo_point.stream_in(repository, back_to, disk.id)
    if now is None or then is None:
        raise NoSuchDisk(
            f"the undo point or the point to go back to does not hold disk {printable(disk.name)}"
        )
    way = open_way_back(repository, (undo, now), (back_to, then), workers=workers)
    return disk, ways.enter_context(way)


def _prepared(
    context: RollbackContext, ways: ExitStack, disk_id: str, undo: Backup, back_to: Backup
) -> _Writing:
    """Read all that a disk must hold. Raises StoredDamage."""
    disk, way = _way(context, ways, disk_id, undo, back_to)
    expected = checksum(way.point, way.size, workers=context.options.workers)
    return _Writing(disk, way, DiskChecksum(way.size, expected))


def _write_all(
    context: RollbackContext,
    unfinished: Sequence[UnfinishedDisk],
    writings: Sequence[_Writing],
    vm: VMName,
    *,
    any_state: bool,
) -> list[RolledBackDisk]:
    done: list[RolledBackDisk] = []
    try:
        for each, writing in zip(unfinished, writings, strict=True):
            # The engine's bitmaps may not have recorded what an upload wrote.
            notes.distrust(context.repository.store, vm.id, each.disk_id)
            done.append(_write(context, each, writing, any_state=any_state))
    except DiskRemoved as error:
        removed = unfinished[len(done)]
        removed.end(context.repository.store)
        error.advice = _restore_advice(removed, vm)
        left = unfinished[len(done) + 1 :]
        if left:
            _say_how_to_go_on(context, error, left, vm)
        raise
    except PitrError as error:
        _say_how_to_go_on(context, error, unfinished[len(done) :], vm)
        raise
    return done


def _write(
    context: RollbackContext, unfinished: UnfinishedDisk, writing: _Writing, *, any_state: bool
) -> RolledBackDisk:
    started_at = time.monotonic()
    engine, disk, way = context.engine, writing.disk, writing.way
    left = next(iter(open_uploads(engine, disk.id)), None)
    with start_in_place(engine, disk.id, left=left.id if left is not None else None) as upload:
        sent = _send(context, way, disk, upload)
        computed = _checksum(context, upload)
        if any_state and not _holds(context, writing, computed):
            context.watch.notify(
                f"disk {printable(disk.name)} was changed since its rollback was interrupted: pitr writes it whole"
            )
            more = _send(context, way.whole(), disk, upload)
            sent = Sent(sent.written + more.written, sent.zeroed + more.zeroed)
            computed = _checksum(context, upload)
        if not _holds(context, writing, computed):
            raise differs(printable(disk.name), computed)
    unfinished.end(context.repository.store)
    return RolledBackDisk(
        disk.id,
        disk.name,
        way.differing_bytes,
        sent.written,
        sent.zeroed,
        time.monotonic() - started_at,
        verified=True,
    )


def _send(context: RollbackContext, way: WayBack, disk: Disk, upload: InPlaceUpload) -> Sent:
    with context.watch.progress(f"rollback {printable(disk.name)}") as progress:
        return send_difference(
            context.engine,
            way,
            upload,
            workers=context.options.workers,
            progress=progress,
            notify=context.watch.notify,
        )


def _checksum(context: RollbackContext, upload: InPlaceUpload) -> DiskChecksum:
    return upload_checksum(context.engine, upload, notify=context.watch.notify)


def _holds(context: RollbackContext, writing: _Writing, computed: DiskChecksum) -> bool:
    return holds(writing.way.point, writing.expected, computed, workers=context.options.workers)


def _say_how_to_go_on(
    context: RollbackContext, error: PitrError, left: Sequence[UnfinishedDisk], vm: VMName
) -> None:
    name = printable(vm.name)
    how = (
        f"Run 'pitr rollback --continue {name}' to end the rollback, or 'pitr rollback --undo --in-place {name}' "
        "to take it back. Do not start the VM before."
    )
    if isinstance(error, DiskUnfinished | Interrupted):
        listed = ", ".join(each.disk_id for each in left)
        context.watch.notify(
            f"the rollback is unfinished: {len(left)} disks do not hold the point yet ({listed}). {how}"
        )
    if not isinstance(error, Interrupted):
        error.advice = f"{error.advice} {how}".strip()
