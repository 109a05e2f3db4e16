# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of a point's disk, which several machines read, or restore to one file, at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pitr.copier import copy
from pitr.copier.protocols import WINDOW, Sink
from pitr.endpoints.images.discarding import DiscardingSink
from pitr.endpoints.images.shared_file import SharedFile, SharedFilePart
from pitr.endpoints.points.missing import MissingSource
from pitr.endpoints.points.point import open_point
from pitr.extents import ExtentMap
from pitr.model import Backup
from pitr.reporting import Progress
from pitr.repository import Repository

#: A range has at least so many bytes of data, if the disk has so many: each one costs a task.
SMALLEST: Final = 128 << 20


@dataclass(frozen=True, slots=True)
class DiskRange:
    """A range of a disk, `[start, end)`, with so many bytes of data."""

    start: int
    end: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class RangeCopied:
    """What was done, in bytes of the disk, and what was read for it."""

    written: int
    frames_read: int
    bytes_read: int


def disk_ranges(extents: ExtentMap, size: int, places: int) -> Iterator[DiskRange]:
    """Yield the ranges of a disk for so many places: large ones first, and small ones last, so that all end together.

    They are cut between windows, so that no frame belongs to two of them.
    """
    is_data = ~extents.zero
    starts, lengths = extents.start[is_data], extents.length[is_data]
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    total = int(before[-1])
    start = passed = wanted = 0
    while total - wanted >= 2 * SMALLEST:
        wanted += max(SMALLEST, (total - wanted) // (2 * places))
        row = int(np.searchsorted(before, wanted, side="left")) - 1
        end = int(starts[row]) + wanted - int(before[row])
        end = min(size, -(-end // WINDOW) * WINDOW)
        within = extents.between(start, end).data_bytes
        yield DiskRange(start, end, within)
        start, passed = end, passed + within
        wanted = passed
    if start < size:
        yield DiskRange(start, size, total - passed)


def copy_range(
    repository: Repository,
    backup: Backup,
    disk_id: str,
    part: DiskRange,
    file: SharedFile | None,
    *,
    workers: int,
    progress: Progress | None,
) -> RangeCopied:
    """Write the range of a point's disk to the file, or (None) only read it. Each digest is compared.

    Raises StoredDamage, which it does not store, UsageError if this machine does not see the file, PitrError.
    """
    stream = next(each for each in backup.streams if each.disk_id == disk_id)
    with repository.reading_vm(backup.vm), open_point(repository, backup, stream) as point:
        within = MissingSource(point, point.extents().between(part.start, part.end))
        sink: Sink = SharedFilePart(file) if file is not None else DiscardingSink()
        try:
            copied = copy(within, sink, workers=workers, progress=progress)
        except BaseException:
            sink.abort()
            raise
        return RangeCopied(copied.written, point.frames_read, point.bytes_read)
