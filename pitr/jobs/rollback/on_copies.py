# SPDX-License-Identifier: GPL-2.0-or-later
"""Let the engine copy each disk, write what differs into the copies, and let the copies take the disks' places."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial

from pitr import times
from pitr.jobs.disk_settings import settings_of
from pitr.jobs.restore.swap import DiskSwap, Exchange
from pitr.jobs.restore.uploading import Uploading, remove_new_disk
from pitr.jobs.rollback import undo_point
from pitr.jobs.rollback.copies import left_copies, suffixes
from pitr.jobs.rollback.disks import ReturningDisk
from pitr.jobs.rollback.handover import hand_over
from pitr.jobs.rollback.proof import check_disk
from pitr.jobs.rollback.result import RollbackContext, RolledBackDisk
from pitr.jobs.rollback.way_back import WayBack, open_way_back
from pitr.jobs.upkeep.uploads import UploadNotes
from pitr.model import Backup, Stream
from pitr.ovirt.differences import disk_checksum, send_difference, upload_checksum
from pitr.ovirt.engine import Disk, copy_disk, disk_exists, get_disk, start_upload, valid_alias, vm_disks
from pitr.repository import rollbacks
from pitr.repository.rollbacks import OldDisk
from pitr.text import counted, printable

_OLD_SUFFIX = re.compile(r"_before_rollback_[0-9]{8}T[0-9]{6}Z$")


def write_on_copies(
    context: RollbackContext, disks: Sequence[ReturningDisk], undo: Backup, back_to: Backup
) -> list[RolledBackDisk]:
    """Take disks back on copies, and swap these in. After an error, only the copies of this run are removed."""
    began_at = time.monotonic()
    UploadNotes(context.repository).end_left_behind(context.engine, notify=context.watch.notify)
    for left in left_copies(context, undo.vm):
        context.watch.notify(
            f"disk {printable(left.name)} ({left.id}) is a copy that an interrupted rollback has left: "
            f"'pitr rollback --discard-old {printable(undo.vm.name)}' removes it"
        )
    with ExitStack() as failure:
        done: list[RolledBackDisk] = []
        exchanges: list[Exchange] = []
        for each, suffix in zip(disks, suffixes(undo, len(disks)), strict=True):
            copy, result = _on_copy(context, each, undo, back_to, suffix, failure)
            done.append(result)
            exchanges.append(_exchange(copy.id, each.disk))
        _swap(context, exchanges, undo, back_to, failure)
        failure.pop_all()
    new_disks = {result.disk_id: each.stream for each, result in zip(disks, done, strict=True)}
    # By the engine's clock, as the undo point.
    at = undo.point + timedelta(seconds=time.monotonic() - began_at)
    hand_over(context, back_to, undo, new_disks, at)
    return done


def _swap(
    context: RollbackContext, exchanges: Sequence[Exchange], undo: Backup, back_to: Backup, failure: ExitStack
) -> None:
    """Let disks that hold `back_to` take the places of others, which hold `undo` and get a suffix to their names.

    After an error it puts the others back. If that fails, too, the swap stays noted for --continue, and all disks stay:
    what `failure` would remove is needed then.
    """
    store = context.repository.store
    # Before the swap, so that a killed one can go on.
    replaced = [(exchange.was_id, exchange.new_id) for exchange in exchanges]
    left = rollbacks.leave(store, undo.vm.id, replaced, undo.known_as, back_to.known_as)
    swapping = _disk_swap(context, undo.vm.id)
    suffix = _old_suffix()
    try:
        swapping.carry_out(exchanges, suffix)
    except BaseException:
        if swapping.undo():
            rollbacks.swapped(store, left)
            for each in left:
                each.end(store)
        else:
            failure.pop_all()
            context.watch.notify(f"'pitr rollback --continue {printable(undo.vm.name)}' ends the rollback")
        raise
    rollbacks.swapped(store, left)
    _tell_of_old(context, exchanges, undo)


def finish_swap(
    context: RollbackContext, left: Sequence[OldDisk], undo: Backup, back_to: Backup
) -> list[RolledBackDisk]:
    """End a swap that was killed: attach the disks that hold `back_to`, and detach those that hold `undo`."""
    attached = {disk.id: disk for disk in vm_disks(context.engine, undo.vm.id)}
    exchanges: list[Exchange] = []
    for each in left:
        stream = undo.stream_of(each.disk_id)
        if stream is None:
            raise AssertionError("the undo point holds the disk")
        old = attached.get(each.disk_id)
        if old is not None:
            # The killed run may have renamed it.
            old = replace(old, name=_OLD_SUFFIX.sub("", old.name))
        exchanges.append(
            Exchange(
                each.in_place,
                valid_alias(stream.name),
                stream.settings,
                old,
                each.disk_id,
                attached=each.in_place in attached,
            )
        )
    suffix = _old_suffix()
    _disk_swap(context, undo.vm.id).carry_out(exchanges, suffix)
    rollbacks.swapped(context.repository.store, left)
    _tell_of_old(context, exchanges, undo)
    streams = {
        each.in_place: undo_point.stream_in(context.repository, back_to, each.in_place) for each in left
    }
    new_disks = {disk_id: stream for disk_id, stream in streams.items() if stream is not None}
    hand_over(context, back_to, undo, new_disks, max(times.now(), undo.point + timedelta(seconds=1)))
    return [
        RolledBackDisk(each.new_id, each.name, 0, 0, 0, 0.0, verified=True, old_disk_id=each.was_id)
        for each in exchanges
    ]


def _old_suffix() -> str:
    return f"_before_rollback_{times.now():%Y%m%dT%H%M%SZ}"


def _disk_swap(context: RollbackContext, vm_id: str) -> DiskSwap:
    uploading = Uploading(context.engine, UploadNotes(context.repository), context.watch.notify)
    return DiskSwap(uploading, vm_id)


def _tell_of_old(context: RollbackContext, exchanges: Sequence[Exchange], undo: Backup) -> None:
    engine = context.engine
    old = [get_disk(engine, each.was_id) for each in exchanges if disk_exists(engine, each.was_id)]
    if not old:
        return
    names = ", ".join(printable(disk.name) for disk in old)
    context.watch.notify(
        f"kept {counted(len(old), 'old disk')}: {names}. 'pitr rollback --discard-old "
        f"{printable(undo.vm.name)}' removes {'it' if len(old) == 1 else 'them'}"
    )


def swap_back(
    context: RollbackContext, left: Sequence[OldDisk], present: Sequence[Disk], undo: Backup, back_to: Backup
) -> list[RolledBackDisk]:
    """Let the disks that a rollback has left take their places again, once they are proven to hold `back_to`.

    `present` are the VM's disks in their places, in the same order.
    """
    done: list[RolledBackDisk] = []
    exchanges: list[Exchange] = []
    new_disks: dict[str, Stream] = {}
    began_at = time.monotonic()
    workers = context.options.workers
    for each, now in zip(left, present, strict=True):
        started_at = time.monotonic()
        old_stream, new_stream = back_to.stream_of(each.disk_id), undo.stream_of(now.id)
        if old_stream is None or new_stream is None:
            raise AssertionError("the points hold the disks")
        with open_way_back(
            context.repository, (undo, new_stream), (back_to, old_stream), workers=workers
        ) as way:
            check_disk(
                printable(now.name),
                way.point,
                partial(disk_checksum, context.engine, each.disk_id),
                workers=workers,
            )
            differing = way.differing_bytes
        exchanges.append(_exchange(each.disk_id, now))
        new_disks[each.disk_id] = old_stream
        done.append(
            RolledBackDisk(
                each.disk_id, now.name, differing, 0, 0, time.monotonic() - started_at, True, now.id
            )
        )
    with ExitStack() as failure:
        _swap(context, exchanges, undo, back_to, failure)
    for each in left:
        each.end(context.repository.store)
    at = undo.point + timedelta(seconds=time.monotonic() - began_at)
    hand_over(context, back_to, undo, new_disks, at)
    return done


def still_there(context: RollbackContext, left: Sequence[OldDisk]) -> bool:
    """Return whether all these disks exist on the engine, detached."""
    return all(
        disk_exists(context.engine, each.disk_id) and get_disk(context.engine, each.disk_id).status == "ok"
        for each in left
    )


def _exchange(new_id: str, old: Disk) -> Exchange:
    return Exchange(new_id, valid_alias(old.name), settings_of(old), old, old.id)


def _on_copy(
    context: RollbackContext,
    returning: ReturningDisk,
    undo: Backup,
    back_to: Backup,
    suffix: str,
    failure: ExitStack,
) -> tuple[Disk, RolledBackDisk]:
    """Copy the disk on the engine, and take the copy back. `failure` gets what removes the copy."""
    started_at = time.monotonic()
    engine, repository, workers = context.engine, context.repository, context.options.workers
    disk = returning.disk
    now = undo.stream_of(disk.id)
    if now is None:
        raise AssertionError("the undo point holds the disk")
    with open_way_back(repository, (undo, now), (back_to, returning.stream), workers=workers) as way:
        context.watch.notify(f"the engine copies disk {returning.name}")
        copy = copy_disk(engine, disk.id, alias=valid_alias(disk.name, suffix))
        failure.callback(_remove, context, copy)
        sent = _send(context, returning, way, copy)
        result = RolledBackDisk(
            copy.id,
            disk.name,
            way.differing_bytes,
            *sent,
            time.monotonic() - started_at,
            verified=True,
            old_disk_id=disk.id,
        )
    return copy, result


def _send(context: RollbackContext, returning: ReturningDisk, way: WayBack, copy: Disk) -> tuple[int, int]:
    """Write what differs into the copy, and prove it. Return the bytes that were written and zeroed."""
    engine, workers = context.engine, context.options.workers
    with (
        UploadNotes(context.repository).made_disk(copy.id),
        context.watch.progress(f"rollback {returning.name}") as progress,
        # A failure cancels the upload, and the engine then removes the copy.
        start_upload(engine, copy.id) as upload,
    ):
        sent = send_difference(engine, way, upload, workers=workers, progress=progress)
        check_disk(returning.name, way.point, lambda: upload_checksum(engine, upload), workers=workers)
    return sent.written, sent.zeroed


def _remove(context: RollbackContext, copy: Disk) -> None:
    problem = remove_new_disk(context.engine, copy.id)
    if problem is not None:
        context.watch.notify(problem)
