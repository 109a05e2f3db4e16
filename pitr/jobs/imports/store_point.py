# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking in: disks from elsewhere become a point of the repository."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from pitr import times
from pitr.copier.any import copy_any
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Source
from pitr.copier.streamed import StreamedSource
from pitr.errors import UsageError
from pitr.model import Backup, DiskSettings, Kind, Mode, Record, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.blob import DEFAULT_LEVEL
from pitr.repository.names import usable_id
from pitr.repository.stream_sink import NewStream, StreamSink, blob_meta
from pitr.version import __version__

#: For a state of which nobody can tell since when it was so.
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


OpenSource = Callable[[], AbstractContextManager[Source | StreamedSource]]
"""Opens the data of one disk; called once."""


@dataclass(frozen=True, slots=True)
class DiskToTakeIn:
    """One disk of a new point. `parent` is what an incremental one stands on.

    `stream_id` is the id that the stream had elsewhere, if it has one. `note` says what the source cannot tell.
    """

    disk_id: str
    name: str
    parent: tuple[Backup, Stream] | None
    settings: DiskSettings
    note: str | None
    stream_id: str | None = None


@dataclass(frozen=True, slots=True)
class PointToTakeIn:
    """A new point: the state of the VM at some moment in `[lo, point]`; `reason` says where it comes from."""

    vm: VMName
    point: datetime
    lo: datetime
    reason: str
    disks: tuple[DiskToTakeIn, ...]
    backup_id: str | None = None
    checkpoint_id: str | None = None
    from_checkpoint_id: str | None = None


def take_in(
    repository: Repository,
    new: PointToTakeIn,
    sources: Sequence[OpenSource],
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Backup:
    """Store the disks, one of `sources` for each, and commit the point. Without a commit nothing is left.

    The caller holds the VM's lock, since before it chose the parents. Raises UsageError where they cannot be these,
    FormatError where a source is not what it should be.
    """
    started_at = time.monotonic()
    check_parents(new)
    backup_id = new.backup_id or str(uuid.uuid4())
    with ExitStack() as cleanup:
        streams: list[Stream] = []
        for disk, open_source in zip(new.disks, sources, strict=True):
            with open_source() as source, new_stream(repository, new, backup_id, disk, source.size) as sink:
                copy_any(source, sink, workers=workers, progress=progress)
            streams.append(sink.stream)
            cleanup.callback(repository.drop_stream, disk.disk_id, sink.stream.stream_id)
        backup = backup_of(new, backup_id, streams, time.monotonic() - started_at)
        repository.commit(Record(backup, None))
        cleanup.pop_all()
    return backup


def check_parents(new: PointToTakeIn) -> Backup | None:
    """The point that the new one stands on. Raises UsageError where there are several, or it is a later one."""
    parents = {disk.parent[0].backup_id: disk.parent[0] for disk in new.disks if disk.parent is not None}
    if len(parents) > 1:
        raise UsageError("the disks of one point stand on different points")
    parent = next(iter(parents.values()), None)
    if parent is not None and new.point < parent.point:
        raise UsageError(
            f"a point of {times.for_people(new.point)} cannot stand on the later one of "
            f"{times.for_people(parent.point)}",
            "Give its time with --time.",
        )
    return parent


def new_stream(
    repository: Repository, new: PointToTakeIn, backup_id: str, disk: DiskToTakeIn, size: int
) -> StreamSink:
    """Begin the stream of one disk, of `size` bytes; it is left as a context manager."""
    stream = NewStream(
        stream_id=disk.stream_id or str(uuid.uuid4()),
        backup_id=backup_id,
        disk_id=disk.disk_id,
        name=disk.name,
        kind=Kind.FULL if disk.parent is None else Kind.INCREMENTAL,
        reason=new.reason if disk.parent is None else None,
        parent_stream_id=None if disk.parent is None else disk.parent[1].stream_id,
        settings=disk.settings,
        note=disk.note,
    )
    # How much data will come is not known before it came.
    meta = blob_meta(stream, new.vm, size, 0, new.point, usable_id(new.checkpoint_id))
    return repository.new_stream(stream, size, meta, level=DEFAULT_LEVEL)


def backup_of(new: PointToTakeIn, backup_id: str, streams: Sequence[Stream], duration_s: float) -> Backup:
    """The point, once its streams are stored."""
    parent = check_parents(new)
    return Backup(
        backup_id=backup_id,
        vm=new.vm,
        kind=Kind.FULL if parent is None else Kind.INCREMENTAL,
        reason=new.reason,
        point=new.point,
        lo=new.lo,
        parent_id=parent.backup_id if parent else None,
        checkpoint_id=usable_id(new.checkpoint_id),
        from_checkpoint_id=usable_id(new.from_checkpoint_id),
        mode=Mode.IMPORTED,
        consistency="unknown",
        streams=tuple(streams),
        left_out=(),
        duration_ms=round(duration_s * 1000),
        pitr_version=__version__,
    )


@dataclass(frozen=True, slots=True)
class SourceTime:
    """The earliest and the latest moment that a source's time can mean, and a note where it has no zone."""

    lo: datetime
    point: datetime
    note: str | None


def time_of(text: object) -> SourceTime | None:
    """The time that a source gives; None when it gives none that is one.

    A time without a zone is local time; one that happened twice, when clocks were set back, means both.
    """
    if not isinstance(text, str):
        return None
    try:
        given = datetime.fromisoformat(text)
        readings = sorted(given.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    except (ValueError, OverflowError, OSError):
        return None
    note = None if given.tzinfo else "the source gives its time without a zone: it was read as local time"
    return SourceTime(readings[0], readings[1], note)


def notes(parts: Sequence[str | None]) -> str | None:
    """Join what there is to say."""
    return "; ".join(part for part in parts if part) or None
