# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of points whose blobs are in the repository, and the plan of it.

Each byte is written or zeroed once. A restore that fails removes everything that it created.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pitr.copier import Copied, copy_all
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Sink, Source
from pitr.endpoints.points.cold import check_warm_point
from pitr.endpoints.points.comparing import open_compared
from pitr.endpoints.points.missing import MissingSource, missing_ranges
from pitr.endpoints.points.point import PointSource, open_point
from pitr.endpoints.points.salvage import DamagedRange, SalvageSource, open_salvage
from pitr.jobs.clean_reads import forget_what_was_read
from pitr.jobs.known_damage import remember
from pitr.jobs.restore.restored import Restored, planned
from pitr.jobs.restore.selection import DiskSelection, advise_on_damage, remembering_damage
from pitr.jobs.restore.target import Target
from pitr.model import Stream
from pitr.reporting import Notify, Progress
from pitr.repository.chain import resolve_chain
from pitr.repository.damage import CatalogDiffers, Damage, StoredDamage


def plan(selection: DiskSelection, target: Target) -> list[Restored]:
    """Return the expected result; write nothing and read no blob. Raises StoredDamage."""
    plans: list[Restored] = []
    with advise_on_damage(selection):
        for stream in selection.streams:
            with _open(selection, stream) as source:
                wanted = _wanted(selection, stream, target, source)
                plans.append(planned(stream, target, wanted, source.needed(), _damaged(source)))
    return plans


def restore(
    selection: DiskSelection,
    target: Target,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
) -> list[Restored]:
    """Restore the disks to `target`, several at a time. Raises StoredDamage before it writes anything damaged.

    `notify` gets a line if damage that `keep_going` skips could not be recorded.
    """
    with (
        selection.repository.reading_vm(selection.backup.vm),
        remembering_damage(selection),
        ExitStack() as failure,
    ):
        # Before anything is created: a store may need hours to bring data back.
        for stream in selection.streams if not selection.keep_going else ():
            check_warm_point(selection.repository, selection.backup, stream)
        failure.callback(target.undo)
        target.prepare()
        # Complete the catalog before the workers use it; they read nothing of other VMs.
        selection.repository.opened_catalog().of_id(selection.backup.vm.id)
        copies = [_DiskRestore(selection, stream, target) for stream in selection.streams]
        copied = copy_all(copies, workers=workers, progress=progress)
        target.finish()
        failure.pop_all()
        _keep_findings(selection, [damage for copy in copies for damage in copy.found], notify)
    return [copy.restored(done) for copy, done in zip(copies, copied, strict=True)]


def _keep_findings(selection: DiskSelection, found: Sequence[Damage], notify: Notify) -> None:
    """Store the damage that the restore went around; a restore without any clears earlier findings."""
    repository, backup = selection.repository, selection.backup
    if not selection.keep_going:
        forget_what_was_read(repository, backup, selection.streams)
        return
    met = [*found]
    for stream in selection.streams:
        try:
            for owner, part in resolve_chain(repository, backup, stream).chain:
                repository.check_sizes(owner, part)
        except CatalogDiffers:
            continue
        except StoredDamage as error:
            met.append(error.damage)
    if met:
        remember(repository, backup.vm.id, selection.check, met, notify)


def _open(selection: DiskSelection, stream: Stream) -> PointSource:
    open_source = open_salvage if selection.keep_going else open_point
    return open_source(selection.repository, selection.backup, stream)


def _wanted(
    selection: DiskSelection, stream: Stream, target: Target, source: PointSource
) -> PointSource | MissingSource:
    """Return what the target does not hold already."""
    with target.present(stream) as image:
        if image is None:
            return source
        with open_compared(selection.repository, selection.backup, stream) as point:
            return MissingSource(source, missing_ranges(image, point, source.extents()))


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
        self.found: list[Damage] = []

    @contextmanager
    def open(self) -> Iterator[tuple[Source, Sink]]:
        started_at = time.monotonic()
        with (
            _open(self._selection, self._stream) as source,
            self._target.sink(self._stream, source) as (name, sink),
        ):
            self._name = name
            yield _wanted(self._selection, self._stream, self._target, source), sink
            self._frames_read, self._bytes_read = source.frames_read, source.bytes_read
            self._streams = source.needed().streams
            self._damaged = _damaged(source)
            if isinstance(source, SalvageSource):
                self.found = source.found
        self._duration_s = time.monotonic() - started_at

    def restored(self, copied: Copied) -> Restored:
        return Restored(
            disk_id=self._stream.disk_id,
            name=self._stream.name,
            target=self._name,
            size=copied.size,
            bytes_written=copied.written,
            bytes_zeroed=copied.zeroed,
            bytes_skipped=copied.size - copied.written - copied.zeroed,
            bytes_read=self._bytes_read,
            frames_read=self._frames_read,
            streams=self._streams,
            duration_s=self._duration_s,
            damaged=self._damaged,
        )
