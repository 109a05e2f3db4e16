# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left of a disk at a point in time whose chain is damaged: all that can be proven, and which ranges cannot.

Where a frame is damaged, its range is. Where a blob is, all ranges that live in it are. Where an index or a record's
stream is lost, nobody knows which ranges it held: all that no newer stream covers is. Damaged ranges read as zero.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np

from pitr.endpoints.points.point import PointReader, PointSource, StoredStream
from pitr.errors import FormatError, RepositoryError
from pitr.extents import BoolArray, ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository, names
from pitr.repository.damage import StoredDamage
from pitr.repository.index import Frames
from pitr.repository.resolver import Layer, PointMap, resolve
from pitr.repository.store import StoredFile


@dataclass(frozen=True, slots=True)
class DamagedRange:
    """A range of the disk, in bytes, that is not what it was; it reads as zero."""

    start: int
    length: int
    message: str


@dataclass(frozen=True, slots=True)
class KnownLayers:
    """What the indexes still tell of a disk. `parts`: the stream of each layer whose index is whole, with its frames;
    `problems`: what is wrong with the others."""

    layers: list[Layer]
    parts: dict[int, tuple[Backup, Stream, Frames]]
    problems: dict[int, str]


def known_layers(repository: Repository, backup: Backup, stream: Stream) -> KnownLayers:
    """Walk the chain that `stream` stands on, newest first, as far as it is known. No blob is opened.

    What the catalog remembers stands in for records that are lost.
    """
    layers: list[Layer] = []
    parts: dict[int, tuple[Backup, Stream, Frames]] = {}
    problems: dict[int, str] = {}
    seen = {stream.stream_id}
    link: tuple[Backup, Stream] | None = (backup, stream)
    while link is not None:
        owner, part = link
        number = len(layers)
        try:
            extents, frames = _read_index(repository, owner, part)
        except (StoredDamage, FormatError) as error:
            layers.append(_unknown(part.size))
            problems[number] = str(error)
            break
        layers.append(Layer(extents, part.size))
        parts[number] = (owner, part, frames)
        try:
            link = _parent(repository, owner, part, seen)
        except _GapError as gap:
            problems[len(layers)] = str(gap)
            layers.append(_unknown(part.size))
            link = None
    return KnownLayers(layers, parts, problems)


def known_chain(repository: Repository, backup: Backup, stream: Stream) -> list[tuple[Backup, Stream]]:
    """The streams that `stream` stands on, newest first, as far as records and catalog know them."""
    chain: list[tuple[Backup, Stream]] = []
    seen = {stream.stream_id}
    link: tuple[Backup, Stream] | None = (backup, stream)
    while link is not None:
        chain.append(link)
        try:
            link = _parent(repository, *link, seen)
        except _GapError:
            break
    return chain


def open_salvage(repository: Repository, backup: Backup, stream: Stream) -> SalvageSource:
    """Open what is left of the disk that `stream` is of. The caller closes it.

    What the catalog remembers stands in for records that are lost. Raises UsageError for a blob that is not here.
    """
    known = known_layers(repository, backup, stream)
    chain: dict[int, StoredStream] = {}
    problems = dict(known.problems)
    with ExitStack() as stack:
        for number, (owner, part, frames) in known.parts.items():
            try:
                blob = stack.enter_context(open_blob_of_any_size(repository, owner, part))
                chain[number] = StoredStream(owner, part, frames, blob)
            except RepositoryError as error:
                problems[number] = error.message
        source = SalvageSource(resolve(known.layers), chain, problems)
        stack.pop_all()
        return source


class _GapError(Exception):
    pass


def _parent(
    repository: Repository, owner: Backup, part: Stream, seen: set[str]
) -> tuple[Backup, Stream] | None:
    if part.parent_stream_id is None:
        return None
    parent_backup = repository.catalog.get(owner.parent_id or "")
    parent = parent_backup.stream_of(part.disk_id) if parent_backup is not None else None
    if (
        parent_backup is None
        or parent is None
        or parent.stream_id != part.parent_stream_id
        or parent.stream_id in seen
    ):
        raise _GapError(f"stream {part.parent_stream_id} of backup {owner.parent_id} is lost")
    seen.add(parent.stream_id)
    return parent_backup, parent


def _unknown(size: int) -> Layer:
    """A stream that may have held anything anywhere."""
    return Layer(ExtentMap.of([(0, size, False)] if size else []), size)


def _read_index(repository: Repository, backup: Backup, stream: Stream) -> tuple[ExtentMap, Frames]:
    with repository.open_index(backup, stream) as index:
        return index.extents(), index.frames()


def open_blob_of_any_size(repository: Repository, backup: Backup, stream: Stream) -> StoredFile:
    """Open a blob of whatever size: the digests tell which of its frames are good."""
    if not repository.is_here(stream):
        return repository.open_blob(backup, stream)
    return repository.store.open(names.blob(stream.disk_id, stream.stream_id))


class SalvageSource(PointSource):
    """A point's disk of which a part may be lost. `problems`: what is wrong with a layer that `chain` lacks."""

    def __init__(
        self, point_map: PointMap, chain: Mapping[int, StoredStream], problems: Mapping[int, str]
    ) -> None:
        super().__init__(point_map, chain)
        self._problems = problems
        self._found: list[DamagedRange] = []
        self._found_lock = threading.Lock()

    def extents(self) -> ExtentMap:
        point_map = self._map
        return ExtentMap(point_map.start, point_map.length, point_map.zero | self._lost()).merged()

    def open_reader(self) -> PointReader:
        return _SalvageReader(self)

    def _lost(self) -> BoolArray:
        return lost_pieces(self._map, self._problems)

    def lose(self, start: int, end: int, message: str) -> None:
        """Note a range as damaged; called by readers."""
        with self._found_lock:
            self._found.append(DamagedRange(start, end - start, message))

    def damaged(self) -> tuple[DamagedRange, ...]:
        """The damaged ranges in the order of the disk, neighbours of one cause joined.

        Those of damaged frames are known once they were read.
        """
        return joined(self._map, self._problems, self._found)


def lost_pieces(point_map: PointMap, problems: Mapping[int, str]) -> BoolArray:
    """Which pieces of the map live in layers that are lost."""
    lost: BoolArray = np.isin(point_map.layer, [*problems]) & ~point_map.zero
    return lost


def joined(
    point_map: PointMap, problems: Mapping[int, str], found: Sequence[DamagedRange]
) -> tuple[DamagedRange, ...]:
    """The ranges that live in lost layers, and those that were `found` by reading; neighbours of one cause joined."""
    lost = lost_pieces(point_map, problems)
    ranges = [
        DamagedRange(start, length, problems[layer])
        for start, length, layer in zip(
            point_map.start[lost].tolist(),
            point_map.length[lost].tolist(),
            point_map.layer[lost].tolist(),
            strict=True,
        )
    ]
    together: list[DamagedRange] = []
    for one in sorted([*ranges, *found], key=lambda one: one.start):
        last = together[-1] if together else None
        if last is not None and last.start + last.length == one.start and last.message == one.message:
            together[-1] = DamagedRange(last.start, last.length + one.length, one.message)
        else:
            together.append(one)
    return tuple(together)


class _SalvageReader(PointReader):
    """Reads all at once, and piece by piece where that fails."""

    def __init__(self, source: SalvageSource) -> None:
        super().__init__(source)
        self._salvage = source

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        # RepositoryError: an error of the disk below the repository.
        with suppress(RepositoryError, StoredDamage):
            super().read_ranges(ranges, buffer)
            return
        at = 0
        for offset, length in ranges:
            for start, end, _ in self._salvage.pieces(offset, offset + length):
                piece = buffer[at + start - offset : at + end - offset]
                try:
                    super().read_ranges([(start, end - start)], piece)
                except (RepositoryError, StoredDamage) as error:
                    piece[:] = bytes(len(piece))
                    self._salvage.lose(start, end, error.message)
            at += length
