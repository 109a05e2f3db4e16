# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at the file systems of many points of a VM, one after the other.

A point whose streams changed none of the ranges that were read for the point before it shows the same files, and is
not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from pitr.errors import DamageError, FileSystemError
from pitr.guest.filesystem.limits import unbounded_memory
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.views import Views
from pitr.jobs.files.volumes import Volumes, open_volumes
from pitr.model import Backup, Kind, Stream
from pitr.reporting import Notify, Progress
from pitr.repository import Repository

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnreadPoint:
    """A point at which pitr cannot tell whether the file exists. `damaged`: because stored data is damaged."""

    backup: Backup
    message: str
    damaged: bool


class PointWalk(Generic[T]):
    """Calls `look` with the volumes of points, on all disks or on `disk` (a name or an id).

    Where a point surely shows the same as the point before it, the earlier result is taken again. A point without the
    disk gives `nothing`.
    """

    def __init__(
        self,
        repository: Repository,
        look: Callable[[Volumes], T],
        nothing: T,
        *,
        disk: str | None,
        reader: FileReader,
        notify: Notify,
    ) -> None:
        self._repository = repository
        self._look = look
        self._nothing = nothing
        self._disk = disk
        self._reader = reader
        self._notify = notify
        self._views = Views()
        self._before: Backup | None = None
        self._seen = nothing

    def over(
        self, backups: Sequence[Backup], unread: list[UnreadPoint], progress: Progress | None
    ) -> Iterator[tuple[Backup, T]]:
        """Yield each point with what was found there. Points that cannot be read are added to `unread` instead.

        `progress` gets the bytes of the disks. Raises the other errors of `look`.
        """
        sizes = [sum(stream.size for stream in backup.streams) for backup in backups]
        for done, backup in enumerate(backups):
            if progress is not None:
                progress(sum(sizes[:done]), sum(sizes))
            try:
                seen = self._at(backup)
            except (DamageError, FileSystemError) as error:
                unread.append(UnreadPoint(backup, error.message, isinstance(error, DamageError)))
                continue
            yield backup, seen

    def _at(self, backup: Backup) -> T:
        streams = self._streams(backup)
        if not self._is_unchanged(backup, streams):
            self._before = None
            self._views.forget()
            self._seen = self._opened(backup, streams)
        self._before = backup
        return self._seen

    def _streams(self, backup: Backup) -> list[Stream]:
        return [
            stream
            for stream in backup.streams
            if self._disk is None or self._disk in (stream.disk_id, stream.name)
        ]

    def _opened(self, backup: Backup, streams: Sequence[Stream]) -> T:
        if not streams:
            return self._nothing
        with open_volumes(
            self._repository, backup, streams, self._notify, self._reader, self._views
        ) as volumes:
            return self._look(volumes)

    def _is_unchanged(self, backup: Backup, streams: Sequence[Stream]) -> bool:
        """Return whether this point surely has the same bytes in all ranges that were read at the point before it."""
        if self._before is None or self._reader is not FileReader.OWN:
            return False
        older = {stream.disk_id: stream for stream in self._streams(self._before)}
        if older.keys() != {stream.disk_id for stream in streams}:
            return False
        return all(self._keeps(backup, stream, older[stream.disk_id]) for stream in streams)

    def _keeps(self, backup: Backup, stream: Stream, older: Stream) -> bool:
        if (
            stream.kind is not Kind.INCREMENTAL
            or stream.parent_stream_id != older.stream_id
            or stream.size != older.size
        ):
            return False
        with unbounded_memory(), self._repository.open_index(backup, stream) as index:
            changed = index.extents()
        read = self._views.read.get(stream.disk_id, set())
        starts = np.array([start for start, _ in read], np.int64)
        ends = np.array([end for _, end in read], np.int64)
        # The first change that ends behind the start of each range.
        first = np.searchsorted(changed.start + changed.length, starts, side="right")
        return not bool((np.append(changed.start, np.iinfo(np.int64).max)[first] < ends).any())
