# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore: disks of a point to a target, and the plan of it.

Each byte is written or zeroed once. A restore that fails takes back what it has made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from pitr import times
from pitr.copier import Copied, copy_all
from pitr.copier.copy import DEFAULT_WORKERS, Progress
from pitr.copier.protocols import Sink, Source
from pitr.endpoints.points.point import Needed, PointSource, open_point
from pitr.endpoints.points.salvage import DamagedRange, SalvageSource, open_salvage
from pitr.extents import ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage

_POINTS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Restored:
    """One disk that was restored, or would be. `target` is the new disk's id or the file; None when not known yet.

    Bytes written, zeroed and skipped are of the disk and add up to its size; `bytes_read` are stored bytes.
    `damaged`: what could not be restored and reads as zero, when that was asked for.
    """

    disk_id: str
    name: str
    target: str | None
    size: int
    bytes_written: int
    bytes_zeroed: int
    bytes_skipped: int
    bytes_read: int
    frames_read: int
    streams: int
    duration_s: float
    damaged: tuple[DamagedRange, ...] = ()


class Target(Protocol):
    """Where a restore goes, for all disks of it. `vm_id`: the VM that gets the disks, once it is there."""

    vm_id: str | None

    def reads_zero(self, stream: Stream) -> bool:
        """Whether what is made for this disk reads as zero."""

    def expected_name(self, stream: Stream) -> str | None:
        """The name of what will be made for this disk, if it is known beforehand."""

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        """Make the target for one disk: its name, and the sink. Left with an error, it is removed again."""

    def finish(self) -> None:
        """Called when all disks are restored."""

    def undo(self) -> None:
        """Remove all that was made, after another disk's failure."""


def plan(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    target: Target,
    *,
    keep_going: bool = False,
) -> list[Restored]:
    """What a restore would do; nothing is written, and no blob is read. Raises StoredDamage."""
    plans: list[Restored] = []
    with advising(repository, backup):
        for stream in streams:
            with _open(repository, backup, stream, keep_going) as source:
                plans.append(planned(stream, target, source, _damaged(source)))
    return plans


class Planned(Protocol):
    """A source that knows what it will take to read it."""

    @property
    def size(self) -> int: ...

    def extents(self) -> ExtentMap: ...

    def needed(self) -> Needed: ...


def planned(stream: Stream, target: Target, source: Planned, damaged: tuple[DamagedRange, ...]) -> Restored:
    """What restoring this disk would do."""
    extents, needed, skips = source.extents(), source.needed(), target.reads_zero(stream)
    return Restored(
        disk_id=stream.disk_id,
        name=stream.name,
        target=target.expected_name(stream),
        size=source.size,
        bytes_written=extents.data_bytes,
        bytes_zeroed=0 if skips else extents.zero_bytes,
        bytes_skipped=extents.zero_bytes if skips else 0,
        bytes_read=needed.stored_bytes,
        frames_read=needed.frames,
        streams=needed.streams,
        duration_s=0.0,
        damaged=damaged,
    )


def restore(
    repository: Repository,
    backup: Backup,
    streams: Sequence[Stream],
    target: Target,
    *,
    keep_going: bool = False,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> list[Restored]:
    """Restore these disks of the point to `target`. Raises StoredDamage before anything damaged is written.

    With `keep_going` all that is not damaged is restored, and the rest is said in the result.
    """
    with (
        repository.reading_vm(backup.vm),
        advising(repository, backup),
        ExitStack() as failure,
    ):
        failure.callback(target.undo)
        copies = [_DiskCopy(repository, backup, stream, target, keep_going) for stream in streams]
        copied = copy_all(copies, workers=workers, progress=progress)
        target.finish()
        failure.pop_all()
    return [copy.restored(done) for copy, done in zip(copies, copied, strict=True)]


def _open(repository: Repository, backup: Backup, stream: Stream, keep_going: bool) -> PointSource:
    return open_salvage(repository, backup, stream) if keep_going else open_point(repository, backup, stream)


def _damaged(source: PointSource) -> tuple[DamagedRange, ...]:
    return source.damaged() if isinstance(source, SalvageSource) else ()


@contextmanager
def advising(repository: Repository, backup: Backup) -> Iterator[None]:
    """Say with damage which points do not depend on it."""
    try:
        yield
    except StoredDamage as error:
        catalog, damage = repository.catalog, error.damage
        if damage.stream_id is not None:
            lost = catalog.dependants(damage.stream_id)
        else:
            lost = catalog.descendants(damage.backup_id or backup.backup_id)
        whole = [point for point in catalog.points(backup.vm.id) if point.backup_id not in {*lost}]
        shown = ", ".join(
            f"{times.for_people(point.point)} ({point.backup_id})" for point in whole[:_POINTS_SHOWN]
        )
        more = f" and {len(whole) - _POINTS_SHOWN} more" if len(whole) > _POINTS_SHOWN else ""
        error.advice = (
            f"Points that do not depend on it: {shown or 'none'}{more}. "
            "--keep-going restores what is not damaged; 'pitr verify' shows all damage."
        )
        raise


class _DiskCopy:
    """One disk of a restore: from its point to what the target makes for it."""

    def __init__(
        self, repository: Repository, backup: Backup, stream: Stream, target: Target, keep_going: bool
    ) -> None:
        self._repository = repository
        self._backup = backup
        self._stream = stream
        self._target = target
        self._keep_going = keep_going
        self._name: str | None = None
        self._frames_read = 0
        self._bytes_read = 0
        self._streams = 0
        self._duration_s = 0.0
        self._damaged: tuple[DamagedRange, ...] = ()

    @contextmanager
    def open(self) -> Iterator[tuple[Source, Sink]]:
        started_at = time.monotonic()
        with (
            _open(self._repository, self._backup, self._stream, self._keep_going) as source,
            self._target.sink(self._stream, source) as (name, sink),
        ):
            self._name = name
            yield source, sink
            self._frames_read, self._bytes_read = source.frames_read, source.bytes_read
            self._streams = source.needed().streams
            self._damaged = _damaged(source)
        self._duration_s = time.monotonic() - started_at

    def restored(self, copied: Copied) -> Restored:
        return Restored(
            disk_id=self._stream.disk_id,
            name=self._stream.name,
            target=self._name,
            size=copied.size,
            bytes_written=copied.written,
            bytes_zeroed=copied.zeroed,
            bytes_skipped=copied.skipped,
            bytes_read=self._bytes_read,
            frames_read=self._frames_read,
            streams=self._streams,
            duration_s=self._duration_s,
            damaged=self._damaged,
        )
