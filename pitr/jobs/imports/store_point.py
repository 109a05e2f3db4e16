# SPDX-License-Identifier: GPL-2.0-or-later
"""Store imported disks as a point of the repository."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from pitr import times
from pitr.copier.any import copy_any
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Sink, Source
from pitr.copier.streamed import StreamedSource
from pitr.endpoints.points.comparing import ComparingSink, open_compared
from pitr.errors import UsageError
from pitr.jobs.imports import recognize
from pitr.jobs.known_damage import remembering
from pitr.model import Backup, DiskSettings, Kind, LeftOut, Mode, Record, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.blob import DEFAULT_LEVEL
from pitr.repository.names import usable_id
from pitr.repository.stream_sink import NewStream, StreamSink, blob_meta
from pitr.version import __version__

#: The earliest time of a state whose age is unknown.
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
#: The note on a disk that the repository does not know.
NO_SETTINGS = "the settings of the disk are unknown: it is restored as a thin qcow2 disk"

OpenSource = Callable[[], AbstractContextManager[Source | StreamedSource]]
"""Opens the data of one disk; called once."""


@dataclass(frozen=True, slots=True)
class DiskToImport:
    """One disk of a new point. An incremental disk is based on `parent`.

    `stream_id` is the original id of the stream, if it has one. `note` says what the source does not tell. A disk that
    is `compared` holds the whole disk, of which only what differs from its parent is stored. `why` says why a whole
    disk is not.
    """

    disk_id: str
    name: str
    parent: tuple[Backup, Stream] | None
    settings: DiskSettings
    note: str | None
    stream_id: str | None = None
    compared: bool = False
    why: str | None = None

    def reason(self, source: str) -> str | None:
        """Return why the disk is compared or stored in full; None for changes."""
        if self.compared:
            return f"{source}: it holds the whole disk"
        if self.parent is not None:
            return None
        return f"{source}; {self.why}" if self.why is not None else source

    @property
    def changes(self) -> str | None:
        """How the changes of an incremental stream were found."""
        if self.parent is None:
            return None
        return "compared" if self.compared else "tracked"


@dataclass(frozen=True, slots=True)
class PointToImport:
    """A new point: the state of the VM at a moment in `[lo, point]` (UTC); `reason` names its source.

    It is not `dated` if neither the source nor the user told its time. `full`: compare no whole disk with the chain
    that the repository has of it.
    """

    vm: VMName
    point: datetime
    lo: datetime
    reason: str
    disks: tuple[DiskToImport, ...]
    backup_id: str | None = None
    checkpoint_id: str | None = None
    from_checkpoint_id: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    dated: bool = True
    full: bool = False

    def may_be(self, backup: Backup) -> bool:
        """Return whether a point can be an earlier import of the same source, as far as names and times tell."""
        return (
            backup.mode is Mode.IMPORTED
            and backup.checkpoint_id == usable_id(self.checkpoint_id)
            and (not self.dated or (backup.lo <= self.lo and self.point <= backup.point))
        )


@dataclass(frozen=True, slots=True)
class ImportedPoint:
    """The point of a source. It is not `new` if the repository held the source already."""

    backup: Backup
    new: bool


def store(
    repository: Repository,
    new: PointToImport,
    sources: Sequence[OpenSource],
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> ImportedPoint:
    """Store each disk from the source at its index, commit the point and return it. A failure leaves nothing.

    If an imported point holds the same data already, nothing is added, and that point is returned. The caller must
    hold the VM's lock since before it chose the parents. Raises UsageError for parents that cannot be used, FormatError
    for an invalid source.
    """
    started_at = time.monotonic()
    check_parents(new)
    backup_id = new.backup_id or str(uuid.uuid4())
    with ExitStack() as cleanup:
        streams: list[Stream] = []
        for disk, open_source in zip(new.disks, sources, strict=True):
            with (
                open_source() as source,
                new_stream(repository, new, backup_id, disk, source.size) as sink,
                _before(repository, new.vm, disk, sink) as target,
            ):
                copy_any(source, target, workers=workers, progress=progress)
            streams.append(sink.stream)
            cleanup.callback(repository.drop_stream, disk.disk_id, sink.stream.stream_id)
        backup = backup_of(new, backup_id, streams, time.monotonic() - started_at)
        known = recognize.same_point(repository, backup, dated=new.dated) or _unchanged_parent(new, streams)
        if known is not None:
            return ImportedPoint(known, new=False)
        repository.commit(Record(backup, None))
        cleanup.pop_all()
    return ImportedPoint(backup, new=True)


def _unchanged_parent(new: PointToImport, streams: Sequence[Stream]) -> Backup | None:
    """Return the point that whole disks were compared with if it was imported from the same data; else None."""
    parent = check_parents(new)
    if parent is None or not new.may_be(parent) or not all(disk.compared for disk in new.disks):
        return None
    before = [parent.stream_of(stream.disk_id) for stream in streams]
    same = all(
        stream.extents == 0 and old is not None and old.size == stream.size
        for stream, old in zip(streams, before, strict=True)
    )
    return parent if same else None


@contextmanager
def _before(repository: Repository, vm: VMName, disk: DiskToImport, sink: StreamSink) -> Iterator[Sink]:
    """Return the sink for the source: `sink` itself, or one that passes on what differs from the parent.

    Damage that the comparison meets is stored. Raises StoredDamage.
    """
    if not disk.compared or disk.parent is None:
        yield sink
        return
    with remembering(repository, vm.id, "import"), open_compared(repository, *disk.parent) as point:
        yield ComparingSink(sink, point)


def check_parents(new: PointToImport) -> Backup | None:
    """Return the point that the new one is based on. Raises UsageError if there are several, or it is a later one."""
    parents = {disk.parent[0].backup_id: disk.parent[0] for disk in new.disks if disk.parent is not None}
    if len(parents) > 1:
        raise UsageError("the disks of one point are based on different points")
    parent = next(iter(parents.values()), None)
    if parent is not None and new.point < parent.point:
        raise UsageError(
            f"the point of {times.for_people(new.point)} cannot be based on the later point of "
            f"{times.for_people(parent.point)}",
            "Give its time with --time.",
        )
    return parent


def new_stream(
    repository: Repository, new: PointToImport, backup_id: str, disk: DiskToImport, size: int
) -> StreamSink:
    """Return the sink of one disk of `size` bytes; use it as a context manager."""
    stream = NewStream(
        stream_id=disk.stream_id or str(uuid.uuid4()),
        backup_id=backup_id,
        disk_id=disk.disk_id,
        name=disk.name,
        kind=Kind.FULL if disk.parent is None else Kind.INCREMENTAL,
        reason=disk.reason(new.reason),
        parent_stream_id=None if disk.parent is None else disk.parent[1].stream_id,
        settings=disk.settings,
        note=disk.note,
        changes=disk.changes,
    )
    # The amount of data is unknown before the source ends.
    meta = blob_meta(
        stream,
        new.vm,
        size,
        0,
        new.point,
        usable_id(new.checkpoint_id),
        parent_id=None if disk.parent is None else disk.parent[0].known_as,
    )
    return repository.new_stream(stream, size, meta, level=DEFAULT_LEVEL)


def backup_of(new: PointToImport, backup_id: str, streams: Sequence[Stream], duration_s: float) -> Backup:
    """Return the backup for the record, from its stored streams."""
    parent = check_parents(new)
    return Backup(
        backup_id=backup_id,
        vm=new.vm,
        kind=Kind.FULL if parent is None else Kind.INCREMENTAL,
        reason=new.reason,
        point=new.point,
        lo=new.lo,
        parent_id=parent.known_as if parent else None,
        checkpoint_id=usable_id(new.checkpoint_id),
        from_checkpoint_id=usable_id(new.from_checkpoint_id),
        mode=Mode.IMPORTED,
        consistency="unknown",
        streams=tuple(streams),
        left_out=new.left_out,
        duration_ms=round(duration_s * 1000),
        pitr_version=__version__,
    )


@dataclass(frozen=True, slots=True)
class SourceTime:
    """The earliest and the latest moment (UTC) that a source's time can mean; a note if it has no zone."""

    lo: datetime
    point: datetime
    note: str | None


def time_of(text: object) -> SourceTime | None:
    """Read a source's time; return None if it is not a valid one.

    A time without a zone is local time. A time that happened twice, when clocks were set back, means both moments.
    """
    if not isinstance(text, str):
        return None
    try:
        given = datetime.fromisoformat(text)
        readings = sorted(given.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    except (ValueError, OverflowError, OSError):
        return None
    note = None if given.tzinfo else "the source gives its time without a zone: pitr read it as local time"
    return SourceTime(readings[0], readings[1], note)


def join_notes(parts: Sequence[str | None]) -> str | None:
    """Join the notes that are not empty; return None if all are."""
    return "; ".join(part for part in parts if part) or None
