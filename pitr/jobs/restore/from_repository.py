# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of points whose blobs are in the repository, and the plan of it.

Each byte is written or zeroed once. A restore that fails removes everything that it created.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pitr.copier import Copied, copy_all
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Sink, Source
from pitr.endpoints.points.point import PointSource, open_point
from pitr.endpoints.points.salvage import DamagedRange, SalvageSource, open_salvage
from pitr.jobs.restore.restored import Restored, planned
from pitr.jobs.restore.selection import DiskSelection, advise_on_damage
from pitr.jobs.restore.target import Target
from pitr.model import Stream
from pitr.reporting import Progress


def plan(selection: DiskSelection, target: Target) -> list[Restored]:
    """Return the expected result; write nothing and read no blob. Raises StoredDamage."""
    plans: list[Restored] = []
    with advise_on_damage(selection):
        for stream in selection.streams:
            with _open(selection, stream) as source:
                plans.append(planned(stream, target, source, _damaged(source)))
    return plans


def restore(
    selection: DiskSelection,
    target: Target,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> list[Restored]:
    """Restore the disks to `target`, several at a time. Raises StoredDamage before it writes anything damaged."""
    with (
        selection.repository.reading_vm(selection.backup.vm),
        advise_on_damage(selection),
        ExitStack() as failure,
    ):
        failure.callback(target.undo)
        target.prepare()
        copies = [_DiskRestore(selection, stream, target) for stream in selection.streams]
        copied = copy_all(copies, workers=workers, progress=progress)
        target.finish()
        failure.pop_all()
    return [copy.restored(done) for copy, done in zip(copies, copied, strict=True)]


def _open(selection: DiskSelection, stream: Stream) -> PointSource:
    open_source = open_salvage if selection.keep_going else open_point
    return open_source(selection.repository, selection.backup, stream)


def _damaged(source: PointSource) -> tuple[DamagedRange, ...]:
    return source.damaged() if isinstance(source, SalvageSource) else ()


class _DiskRestore:
    """The copy of one disk, from its point to its new disk or file."""

    def __init__(self, selection: DiskSelection, stream: Stream, target: Target) -> None:
        self._selection = selection
        self._stream = stream
        self._target = target
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
            _open(self._selection, self._stream) as source,
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
