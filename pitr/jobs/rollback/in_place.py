# SPDX-License-Identifier: GPL-2.0-or-later
"""Write what differs into the VM's own disks.

The engine removes the disk of an upload that fails, so these uploads are paused after trouble and never cancelled. Each
disk is noted as unfinished before its first byte, so that a later run can go on: all that differs is then sent again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pitr.errors import DiskUnfinished, Interrupted, NoSuchDisk, PitrError
from pitr.jobs.rollback import undo_point
from pitr.jobs.rollback.proof import check_disk
from pitr.jobs.rollback.result import RollbackContext, RolledBackDisk
from pitr.jobs.rollback.way_back import open_way_back
from pitr.model import Backup, VMName
from pitr.ovirt.differences import send_difference, upload_checksum
from pitr.ovirt.engine import get_disk, open_uploads, start_in_place
from pitr.repository import notes, rollbacks
from pitr.repository.rollbacks import UnfinishedDisk
from pitr.text import printable


def write_in_place(
    context: RollbackContext, disk_ids: Sequence[str], undo: Backup, back_to: Backup
) -> list[RolledBackDisk]:
    """Take these disks of the VM back. They must hold the point `undo` now.

    Raises DiskUnfinished, DiskRemoved, and other errors if nothing was changed.
    """
    store = context.repository.store
    begun = rollbacks.begin(store, undo.vm.id, disk_ids, undo.known_as, back_to.known_as)
    for each in begun:
        # The engine's bitmaps may not have recorded what an upload wrote.
        notes.distrust(store, undo.vm.id, each.disk_id)
    return finish_in_place(context, begun, undo.vm)


def finish_in_place(
    context: RollbackContext, unfinished: Sequence[UnfinishedDisk], vm: VMName
) -> list[RolledBackDisk]:
    """Take disks back that may hold a part of both states. Raises the same as `write_in_place`."""
    done: list[RolledBackDisk] = []
    try:
        for each in unfinished:
            done.append(_write(context, each, vm))
    except PitrError as error:
        _say_how_to_go_on(context, error, unfinished[len(done) :], vm)
        raise
    return done


def _write(context: RollbackContext, unfinished: UnfinishedDisk, vm: VMName) -> RolledBackDisk:
    started_at = time.monotonic()
    repository, engine, workers = context.repository, context.engine, context.options.workers
    undo = undo_point.with_id(repository, unfinished.undo_id, vm)
    back_to = undo_point.with_id(repository, unfinished.point_id, vm)
    disk = get_disk(engine, unfinished.disk_id)
    now, then = undo.stream_of(disk.id), undo_point.stream_in(repository, back_to, disk.id)
    if now is None or then is None:
        raise NoSuchDisk(
            f"the undo point or the point to go back to does not hold disk {printable(disk.name)}"
        )
    left = next(iter(open_uploads(engine, disk.id)), None)
    with (
        open_way_back(repository, (undo, now), (back_to, then), workers=workers) as way,
        context.watch.progress(f"rollback {printable(disk.name)}") as progress,
        start_in_place(engine, disk.id, left=left.id if left is not None else None) as upload,
    ):
        sent = send_difference(
            engine, way, upload, workers=workers, progress=progress, notify=context.watch.notify
        )
        check_disk(
            printable(disk.name),
            way.point,
            lambda: upload_checksum(engine, upload, notify=context.watch.notify),
            workers=workers,
        )
        differing = way.differing_bytes
    unfinished.end(repository.store)
    return RolledBackDisk(
        disk.id,
        disk.name,
        differing,
        sent.written,
        sent.zeroed,
        time.monotonic() - started_at,
        verified=True,
    )


def _say_how_to_go_on(
    context: RollbackContext, error: PitrError, left: Sequence[UnfinishedDisk], vm: VMName
) -> None:
    how = f"Run 'pitr rollback --continue {printable(vm.name)}' to end the rollback. Do not start the VM before."
    if isinstance(error, DiskUnfinished | Interrupted):
        listed = ", ".join(each.disk_id for each in left)
        context.watch.notify(
            f"the rollback is unfinished: {len(left)} disks do not hold the point yet ({listed}). {how}"
        )
    if not isinstance(error, Interrupted):
        error.advice = f"{error.advice} {how}".strip()
