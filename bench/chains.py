# SPDX-License-Identifier: GPL-2.0-or-later
"""Make repositories for the benchmarks: a full of real files, and incrementals that change random parts of it."""

from __future__ import annotations

import mmap
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pitr.copier import copy
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Source
from pitr.endpoints.images.raw_file import RawFileSource
from pitr.extents import ExtentMap
from pitr.model import Backup, DiskSettings, Kind, Mode, Record, Stream, VMName
from pitr.repository import Repository
from pitr.repository.stream_sink import NewStream, blob_meta
from pitr.system.closing import Closes

#: The size of a change: the granularity of dirty bitmaps.
GRAIN = 1 << 16
VM = VMName("11111111-0000-4000-8000-000000000001", "web1")
#: The time of the first backup. The others are so many hours later as their number says.
FIRST = datetime(2020, 6, 29, 22, tzinfo=UTC)


class ShiftedSource:
    """A source of plausible changes: ranges of a disk, filled with data from other places of its image."""

    max_readers = 4

    def __init__(self, image: memoryview, grains: Sequence[int], shift: int) -> None:
        self.size = len(image)
        self._image = image
        self._shift = shift
        self._extents = ExtentMap.of([(grain * GRAIN, GRAIN, False) for grain in grains]).merged()

    def extents(self) -> ExtentMap:
        return self._extents

    def open_reader(self) -> ShiftedReader:
        return ShiftedReader(self._image, self._shift)


class ShiftedReader(Closes):
    def __init__(self, image: memoryview, shift: int) -> None:
        self._image = image
        self._shift = shift

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        for offset, length in ranges:
            start = (offset + self._shift) % (len(self._image) - length)
            buffer[at : at + length] = self._image[start : start + length]
            at += length

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Chain:
    """The backups of one disk, oldest first."""

    backups: list[Backup]

    @property
    def newest(self) -> tuple[Backup, Stream]:
        return self.backups[-1], self.backups[-1].streams[0]


def store(
    repository: Repository,
    source: Source,
    parent: Backup | None,
    number: int,
    disk_id: str,
    workers: int = DEFAULT_WORKERS,
) -> Backup:
    """Store and commit one backup of one disk: an incremental based on `parent`, else a full."""
    kind = Kind.FULL if parent is None else Kind.INCREMENTAL
    new = NewStream(
        stream_id=str(uuid.uuid4()),
        backup_id=str(uuid.uuid4()),
        disk_id=disk_id,
        name="system",
        kind=kind,
        reason=None if parent else "asked for",
        parent_stream_id=None if parent is None else parent.streams[0].stream_id,
        settings=DiskSettings(),
    )
    point = FIRST + timedelta(hours=number)
    parent_id = parent.backup_id if parent else None
    meta = blob_meta(new, VM, source.size, 0, point, None, parent_id=parent_id)
    with repository.new_stream(new, source.size, meta, level=1) as sink:
        copy(source, sink, workers=workers)
        stream = sink.stream
    backup = Backup(
        backup_id=new.backup_id,
        vm=VM,
        kind=kind,
        reason=new.reason,
        point=point,
        lo=point,
        parent_id=parent.known_as if parent else None,
        checkpoint_id=str(uuid.uuid4()),
        from_checkpoint_id=parent.checkpoint_id if parent else None,
        mode=Mode.LIVE,
        consistency="unknown",
        streams=(stream,),
        left_out=(),
        duration_ms=1,
        pitr_version="0",
    )
    repository.commit(Record(backup, None))
    return backup


def make_chain(
    repository: Repository, image: Path, incrementals: int, workers: int = DEFAULT_WORKERS
) -> Chain:
    """Store a full of `image`, and incrementals that each change a random 1 % of its grains."""
    disk_id = str(uuid.uuid4())
    chooser = random.Random(11)
    with RawFileSource(image) as source:
        backups = [store(repository, source, None, 0, disk_id, workers)]
    with (
        image.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        grains = len(content) // GRAIN
        for number in range(1, incrementals + 1):
            changed = sorted(chooser.sample(range(grains), max(1, grains // 100)))
            shifted = ShiftedSource(content, changed, number * 37 * GRAIN)
            backups.append(store(repository, shifted, backups[-1], number, disk_id, workers))
            del shifted
    return Chain(backups)
