# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks of a point on several workers: each reads ranges of them. A drill only reads; a restore writes one file for
each disk, which all workers see.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pitr.endpoints.images.shared_file import SharedFile
from pitr.endpoints.points.cold import check_warm_point
from pitr.endpoints.points.point import PointSource, open_point
from pitr.fleet.backups import RepositoryOfFleet
from pitr.fleet.client import Fleet
from pitr.fleet.tasks import PointRead, TrialRestore
from pitr.fleet.together import Part, places_of, run_together
from pitr.jobs.clean_reads import forget_what_was_read
from pitr.jobs.restore.one_range import RangeCopied, disk_ranges
from pitr.jobs.restore.restored import Restored
from pitr.jobs.restore.selection import DiskSelection, remembering_damage
from pitr.jobs.restore.to_files import FilesTarget
from pitr.jobs.verify.drill import findings_of, result_of
from pitr.model import Stream
from pitr.reporting import Notify, Progress
from pitr.repository import Repository
from pitr.repository.drills import Drill
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class Watched:
    """A fleet that works on the repository `of`, with the callbacks of the command. `workers` are threads of a task."""

    fleet: Fleet
    of: RepositoryOfFleet
    workers: int
    progress: Progress | None
    notify: Notify

    def run(
        self, selection: DiskSelection, disks: Sequence[tuple[Stream, PointSource, SharedFile | None]]
    ) -> list[list[RangeCopied]]:
        """Read the ranges of all disks; return the results for each disk. Raises StoredDamage, PitrError."""
        parts = [list(self._parts(selection, *disk)) for disk in disks]
        every = [part for of_disk in parts for part in of_disk]
        results = iter(run_together(self.fleet, self.of, every, self.progress, self.notify))
        return [[next(results) for _ in of_disk] for of_disk in parts]

    def _parts(
        self, selection: DiskSelection, stream: Stream, point: PointSource, file: SharedFile | None
    ) -> Iterator[Part]:
        found = list(disk_ranges(point.extents(), point.size, places_of(self.fleet)))
        for number, part in enumerate(found, 1):
            name = f"range {number} of {len(found)} of disk {printable(stream.name)}"
            read = PointRead(name, selection.backup.backup_id, stream.disk_id, part, file, self.workers)
            yield Part(read, part.data_bytes)


def drill_on(watched: Watched, repository: Repository, job: TrialRestore) -> Drill:
    """Return the result of a drill that compares digests only. Raises PitrError, Interrupted."""
    started_at = time.monotonic()
    backup = repository.record_of(job.backup_id)
    selection = DiskSelection(repository, backup, backup.streams, check="drill")
    disks = findings_of(selection, lambda: _read(watched, selection))
    return result_of(backup, disks, started_at, image=False)


def _read(watched: Watched, selection: DiskSelection) -> None:
    repository, backup = selection.repository, selection.backup
    with repository.reading_vm(backup.vm), remembering_damage(selection), ExitStack() as stack:
        for stream in selection.streams:
            check_warm_point(repository, backup, stream)
        disks = [
            (stream, stack.enter_context(open_point(repository, backup, stream)), None)
            for stream in selection.streams
        ]
        watched.run(selection, disks)
        forget_what_was_read(repository, backup, selection.streams)


def restore_on(watched: Watched, selection: DiskSelection, target: FilesTarget) -> list[Restored]:
    """Restore the disks to new raw files that all workers see. Raises StoredDamage, UsageError, PitrError.

    A restore that fails removes what it created.
    """
    repository, backup = selection.repository, selection.backup
    started_at = time.monotonic()
    with repository.reading_vm(backup.vm), remembering_damage(selection), ExitStack() as failure:
        for stream in selection.streams:
            check_warm_point(repository, backup, stream)
        failure.callback(target.undo)
        target.prepare()
        with ExitStack() as stack:
            disks = [_Disk(selection, stream, target, stack) for stream in selection.streams]
            copied = watched.run(
                selection, [(disk.stream, disk.source, disk.sink.shared()) for disk in disks]
            )
            done = [disk.completed(parts, started_at) for disk, parts in zip(disks, copied, strict=True)]
        target.finish()
        failure.pop_all()
        forget_what_was_read(repository, backup, selection.streams)
    return done


class _Disk:
    """A disk with the file that it is restored to, while `stack` is open."""

    def __init__(
        self, selection: DiskSelection, stream: Stream, target: FilesTarget, stack: ExitStack
    ) -> None:
        self._open = stack.enter_context(ExitStack())
        self.stream = stream
        self.source = self._open.enter_context(open_point(selection.repository, selection.backup, stream))
        self._name, self.sink = self._open.enter_context(target.shared_sink(stream, self.source))

    def completed(self, parts: Sequence[RangeCopied], started_at: float) -> Restored:
        """Give the file its name, and return what was restored by these parts."""
        streams = self.source.needed().streams
        self.sink.flush()
        self._open.close()
        written = sum(part.written for part in parts)
        return Restored(
            disk_id=self.stream.disk_id,
            name=self.stream.name,
            target=self._name,
            size=self.source.size,
            bytes_written=written,
            bytes_zeroed=0,
            bytes_skipped=self.source.size - written,
            bytes_read=sum(part.bytes_read for part in parts),
            frames_read=sum(part.frames_read for part in parts),
            streams=streams,
            duration_s=time.monotonic() - started_at,
        )
