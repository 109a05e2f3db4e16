# SPDX-License-Identifier: GPL-2.0-or-later
"""A new point of the repository as a sink for the API: a flush commits it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime

from pitr import times
from pitr.jobs import find
from pitr.jobs.imports import identify, store_point
from pitr.jobs.imports.store_point import DiskToImport, PointToImport
from pitr.model import Backup, DiskSettings, Record
from pitr.repository import Repository
from pitr.repository.stream_sink import StoredPiece, StreamWriter


class PointSink:
    """Stores a disk of `size` bytes as a point with one disk. The VM is locked until you call `flush` or `abort`.

    `vm` and `disk` are names or ids, known to the repository or new; `moment` is the point's time in UTC (now). With
    `onto`, the id of a point, the new point is incremental: ranges that are not written are as in that point. Raises
    UsageError, NoSuchPoint and BusyError.
    """

    max_writers = 1 << 10
    reads_zero = False

    def __init__(
        self,
        repository: Repository,
        size: int,
        *,
        vm: str,
        disk: str,
        moment: datetime | None = None,
        onto: str | None = None,
    ) -> None:
        self._repository = repository
        self._started_at = time.monotonic()
        self._backup_id = str(uuid.uuid4())
        self._backup: Backup | None = None
        chosen = identify.choose_vm(repository.catalog, vm, {})
        with ExitStack() as stack:
            stack.enter_context(repository.lock_vm(chosen))
            identity = identify.choose_disk(repository.catalog, chosen, disk, None, None)
            parent = None
            if onto is not None:
                parent = identify.parent_at(find.point_with_id(repository, onto, chosen).backup, identity.id)
            point = times.now() if moment is None else moment
            new_disk = DiskToImport(
                identity.id,
                identity.name,
                parent,
                identity.settings or DiskSettings(),
                None,
            )
            self._new = PointToImport(chosen, point, point, "written through the Python API", (new_disk,))
            store_point.check_parents(self._new)
            self._sink = stack.enter_context(
                store_point.new_stream(repository, self._new, self._backup_id, new_disk, size)
            )
            self._stack = stack.pop_all()

    @property
    def backup(self) -> Backup:
        """Return the new point. Raises ValueError before the flush."""
        if self._backup is None:
            raise ValueError("the point is not flushed yet")
        return self._backup

    def open_writer(self) -> StreamWriter:
        return self._sink.open_writer()

    def append(self, pieces: Sequence[StoredPiece]) -> None:
        """Append the next pieces of the disk to the blob; one caller at a time."""
        self._sink.append(pieces)

    def flush(self) -> None:
        self._sink.flush()
        stream = self._sink.stream
        duration_s = time.monotonic() - self._started_at
        backup = store_point.backup_of(self._new, self._backup_id, [stream], duration_s)
        try:
            self._repository.commit(Record(backup, None))
        except BaseException:
            self._repository.drop_stream(stream.disk_id, stream.stream_id)
            raise
        self._backup = backup
        self._stack.close()

    def abort(self) -> None:
        if self._backup is not None:
            return
        aborted = RuntimeError("the point was aborted")
        self._stack.__exit__(type(aborted), aborted, None)
        self._stack = ExitStack()
