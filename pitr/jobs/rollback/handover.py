# SPDX-License-Identifier: GPL-2.0-or-later
"""The point after a rollback on copies: the VM with its new disks, made from what is stored, without reading a disk.

The copies are proven to hold the point, and the VM is down. So the next backup can compare the new disks with this
point, although no backup has read them yet.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

from pitr import times
from pitr.errors import Interrupted, PitrError
from pitr.jobs.disk_settings import settings_of
from pitr.jobs.holds import marking
from pitr.jobs.rollback.result import RollbackContext
from pitr.model import Backup, Kind, Record, Stream
from pitr.ovirt.engine import Disk, get_configuration, vm_disks
from pitr.repository import Repository, marks, notes
from pitr.repository.chain import resolve_chain
from pitr.repository.virtual_full import store_virtual_full
from pitr.version import __version__


def hand_over(
    context: RollbackContext, back_to: Backup, undo: Backup, new_disks: Mapping[str, Stream], at: datetime
) -> Backup | None:
    """Store the point of the VM at the time `at`, and return it.

    `new_disks` has the streams of `back_to` that the new disks hold, by the ids of these. The VM's other disks are as
    in `undo`. The next backup compares all disks with the new point. If the point cannot be stored, `notify`
    gets a line, the result is None, and the next backup stores the new disks in full.
    """
    repository, vm_id = context.repository, undo.vm.id
    try:
        made = _store(
            repository,
            undo,
            _held(context, back_to, undo, new_disks),
            at,
            get_configuration(context.engine, vm_id),
        )
        for disk_id in new_disks:
            # The engine has a checkpoint of the disks before, and no list of changes of these.
            notes.distrust(repository.store, vm_id, disk_id)
        with marking(repository, made):
            marks.note(repository.store, made, f"after rollback to {times.to_text(back_to.point)}")
    except Interrupted:
        raise
    except PitrError as error:
        # The rollback itself is complete.
        context.watch.notify(
            f"cannot store the point after the rollback: {error.message}. The next backup stores the new disks in full"
        )
        return None
    return made


def _held(
    context: RollbackContext, back_to: Backup, undo: Backup, new_disks: Mapping[str, Stream]
) -> list[tuple[Disk, Backup, Stream]]:
    """Return the VM's disks, each with the point and the stream that it holds; those of no point are left out."""
    held: list[tuple[Disk, Backup, Stream]] = []
    for disk in vm_disks(context.engine, undo.vm.id):
        new, unchanged = new_disks.get(disk.id), undo.stream_of(disk.id)
        if new is not None:
            held.append((disk, back_to, new))
        elif unchanged is not None:
            held.append((disk, undo, unchanged))
    return held


def _store(
    repository: Repository,
    undo: Backup,
    held: Sequence[tuple[Disk, Backup, Stream]],
    at: datetime,
    configuration: str | None,
) -> Backup:
    backup_id = str(uuid.uuid4())
    with ExitStack() as failure:
        streams: list[Stream] = []
        for disk, owner, stream in held:
            stream_id = str(uuid.uuid4())
            failure.callback(repository.drop_stream, disk.id, stream_id)
            resolved = resolve_chain(repository, owner, stream, with_frames=True)
            described = replace(stream, disk_id=disk.id, name=disk.name, settings=settings_of(disk))
            streams.append(
                store_virtual_full(repository, resolved, described, backup_id=backup_id, stream_id=stream_id)
            )
        made = replace(
            undo,
            backup_id=backup_id,
            kind=Kind.SYNTHETIC,
            reason=None,
            point=at,
            lo=at,
            parent_id=None,
            checkpoint_id=None,
            from_checkpoint_id=None,
            streams=tuple(streams),
            duration_ms=0,
            pitr_version=__version__,
            stands_for=None,
            configuration=None,
        )
        made = repository.commit(Record(made, configuration))
        failure.pop_all()
    return made
