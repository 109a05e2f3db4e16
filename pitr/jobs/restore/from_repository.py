# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore: disks of a point to a target, and the plan of it.

Each byte is written or zeroed once. A restore that fails takes back what it has made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pitr import times
from pitr.copier import Copied, copy_all
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Sink, Source
from pitr.endpoints.points.point import PointSource, open_point
from pitr.endpoints.points.salvage import DamagedRange, SalvageSource, open_salvage
from pitr.jobs.restore.target import Restored, Target, planned
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage

_POINTS_SHOWN = 8


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
        copies = [_DiskRestore(repository, backup, stream, target, keep_going) for stream in streams]
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


class _DiskRestore:
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
