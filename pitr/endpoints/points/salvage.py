# SPDX-License-Identifier: GPL-2.0-or-later
"""The provable rest of a disk with a damaged chain, and its damaged ranges.

A damaged frame damages its range. A damaged blob damages all ranges that it holds. Nothing says which ranges a lost
index or a lost stream held, so all ranges that no newer stream covers are damaged. Damaged ranges read as zero.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pitr.endpoints.points.point import PointReader, PointSource, StoredStream
from pitr.errors import FormatError, PitrError, RepositoryError
from pitr.extents import BoolArray, ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository, names
from pitr.repository.damage import Damage, StoredDamage
from pitr.repository.index import Frames
from pitr.repository.layers import LayerSource, layers_of
from pitr.repository.resolver import Layer, PointMap, resolve
from pitr.repository.store import ObjectStoreError, StoredFile


@dataclass(frozen=True, slots=True)
class DamagedRange:
    """A range of the disk, in bytes, whose content is lost. It reads as zero."""

    start: int
    length: int
    message: str


@dataclass(frozen=True, slots=True)
class KnownLayers:
    """The layers that the indexes still describe.

    `parts`: the origin and the frames of each layer with a valid index. `problems`: what is wrong with the others.
    """

    layers: list[Layer]
    parts: dict[int, tuple[LayerSource, Frames]]
    problems: dict[int, str]


def known_layers(repository: Repository, backup: Backup, stream: Stream) -> KnownLayers:
    """Walk the chain of `stream`, newest first, as far as it is known. Open no blob.

    The catalog stands in for lost records.
    """
    layers: list[Layer] = []
    parts: dict[int, tuple[LayerSource, Frames]] = {}
    problems: dict[int, str] = {}
    seen = {stream.stream_id}
    link: tuple[Backup, Stream] | None = (backup, stream)
    while link is not None:
        owner, part = link
        try:
            of_link = _read_index(repository, owner, part)
        except (StoredDamage, FormatError) as error:
            problems[len(layers)] = str(error)
            layers.append(_unknown(part.size))
            break
        for source, layer, frames in of_link:
            parts[len(layers)] = (source, frames)
            layers.append(layer)
        try:
            link = _parent(repository, owner, part, seen)
        except _GapError as gap:
            problems[len(layers)] = str(gap)
            layers.append(_unknown(part.size))
            link = None
    return KnownLayers(layers, parts, problems)


def known_chain(repository: Repository, backup: Backup, stream: Stream) -> list[tuple[Backup, Stream]]:
    """Return `stream` and the streams that it is based on, newest first, as far as records and catalog know them."""
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
    """Open the provable rest of the disk of `stream`. The caller closes it.

    The catalog stands in for lost records. Raises UsageError for a blob that is stored externally.
    """
    known = known_layers(repository, backup, stream)
    chain: dict[int, StoredStream] = {}
    problems = dict(known.problems)
    with ExitStack() as stack:
        for number, (origin, frames) in known.parts.items():
            owner, part = origin.backup, origin.stream
            if part.blob is None:
                # The layer has only the zero ranges of a stream of parts.
                continue
            try:
                blob = stack.enter_context(open_blob_of_any_size(repository, owner, part))
                chain[number] = StoredStream(owner, part, frames, blob)
            except ObjectStoreError:
                # A store that does not answer has not lost its objects.
                raise
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
    parent_id, catalog = owner.parent_id or "", repository.catalog
    parent_backup = catalog.get(parent_id) or catalog.stand_in(parent_id)
    parent = parent_backup.stream_of(part.disk_id) if parent_backup is not None else None
    if (
        parent_backup is None
        or parent is None
        or (parent.stream_id != part.parent_stream_id and parent_backup.stands_for != parent_id)
        or parent.stream_id in seen
    ):
        raise _GapError(f"stream {part.parent_stream_id} of backup {owner.parent_id} is lost")
    seen.add(parent.stream_id)
    return parent_backup, parent


def _unknown(size: int) -> Layer:
    """Return a layer that may hold any data anywhere."""
    return Layer(ExtentMap.of([(0, size, False)] if size else []), size)


def _read_index(
    repository: Repository, backup: Backup, stream: Stream
) -> list[tuple[LayerSource, Layer, Frames]]:
    with repository.open_index(backup, stream) as index:
        return [
            (source, layer, index.frames(source.number)) for source, layer in layers_of(backup, stream, index)
        ]


def open_blob_of_any_size(repository: Repository, backup: Backup, stream: Stream) -> StoredFile:
    """Open a blob without checking its size. The digests tell which of its frames are good."""
    if not repository.is_here(stream):
        return repository.open_blob(backup, stream)
    return repository.store.open(names.blob(stream.disk_id, stream.stream_id))


class SalvageSource(PointSource):
    """The disk of a point that may be partly lost. `problems`: what is wrong with a layer that `chain` lacks."""

    def __init__(
        self, point_map: PointMap, chain: Mapping[int, StoredStream], problems: Mapping[int, str]
    ) -> None:
        super().__init__(point_map, chain)
        self._problems = problems
        self._damaged: list[DamagedRange] = []
        self._damage_lock = threading.Lock()
        #: The damage of the frames that readers met.
        self.found: list[Damage] = []

    def extents(self) -> ExtentMap:
        point_map = self._map
        return ExtentMap(point_map.start, point_map.length, point_map.zero | self._lost()).merged()

    def open_reader(self) -> PointReader:
        return _SalvageReader(self)

    def _lost(self) -> BoolArray:
        return lost_pieces(self._map, self._problems)

    def lose(self, start: int, end: int, error: PitrError) -> None:
        """Record a range as damaged. Readers call it."""
        with self._damage_lock:
            self._damaged.append(DamagedRange(start, end - start, error.message))
            if isinstance(error, StoredDamage):
                self.found.append(error.damage)

    def damaged(self) -> tuple[DamagedRange, ...]:
        """Return the damaged ranges in the order of the disk, with neighbours of one cause joined.

        Damaged frames are included only after they have been read.
        """
        return joined(self._map, self._problems, self._damaged)


def lost_pieces(point_map: PointMap, problems: Mapping[int, str]) -> BoolArray:
    """Return which pieces of the map are in lost layers."""
    lost: BoolArray = np.isin(point_map.layer, [*problems]) & ~point_map.zero
    return lost


def joined(
    point_map: PointMap, problems: Mapping[int, str], damaged: Sequence[DamagedRange]
) -> tuple[DamagedRange, ...]:
    """Join the ranges in lost layers with the ranges found `damaged`; merge neighbours of one cause."""
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
    merged: list[DamagedRange] = []
    for damage in sorted([*ranges, *damaged], key=lambda damage: damage.start):
        last = merged[-1] if merged else None
        if last is not None and last.start + last.length == damage.start and last.message == damage.message:
            merged[-1] = DamagedRange(last.start, last.length + damage.length, damage.message)
        else:
            merged.append(damage)
    return tuple(merged)


class _SalvageReader(PointReader):
    """Reads all ranges at once, and piece by piece when that fails."""

    def __init__(self, source: SalvageSource) -> None:
        super().__init__(source)
        self._salvage = source

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        # RepositoryError: the file system of the repository reports an error.
        try:
            super().read_ranges(ranges, buffer)
            return
        except ObjectStoreError:
            raise
        except (RepositoryError, StoredDamage):
            pass
        at = 0
        for offset, length in ranges:
            for start, end, _ in self._salvage.pieces(offset, offset + length):
                piece = buffer[at + start - offset : at + end - offset]
                try:
                    super().read_ranges([(start, end - start)], piece)
                except ObjectStoreError:
                    raise
                except (RepositoryError, StoredDamage) as error:
                    piece[:] = bytes(len(piece))
                    self._salvage.lose(start, end, error)
            at += length
