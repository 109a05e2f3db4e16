# SPDX-License-Identifier: GPL-2.0-or-later
"""The changed ranges of a disk between two points, in either direction: as ranges, and as a source.

The extent indexes alone tell them. A range is unchanged where both points read the same frame, or frames of the same
place, length and digest, or where both are zero. No blob is read. So data that was stored again with the same content
counts as changed only where its frames were cut differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pitr.copier.wrapped import WrappedSource
from pitr.endpoints.points.point import PointSource, open_resolved
from pitr.extents import BoolArray, ExtentMap, Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import ResolvedChain, frames_of, resolve_chain
from pitr.repository.index import DIGEST
from pitr.system.closing import Closes


def open_difference(
    repository: Repository, since: tuple[Backup, Stream], backup: Backup, stream: Stream
) -> DifferenceSource:
    """Open the changes from the disk at the point `since` to the disk at the point of `backup`. The caller closes it.

    Raises StoredDamage when one of the chains is damaged.
    """
    before = resolve_chain(repository, *since)
    after = resolve_chain(repository, backup, stream, with_frames=True)
    changed = compare(repository, before, after).extents()
    return DifferenceSource(open_resolved(repository, after), changed)


class DifferenceSource(WrappedSource[PointSource], Closes):
    """The ranges of a point that differ from another point. Closing it closes the point."""

    def __init__(self, point: PointSource, changed: ExtentMap) -> None:
        super().__init__(point)
        self._changed = changed

    def extents(self) -> ExtentMap:
        return self._changed

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True, slots=True)
class Difference:
    """The ranges of a disk that differ between two points: sorted, disjoint, in bytes of the later disk.

    `zero`: whether the range reads as zero at the later point; `was_zero`: whether it did at the earlier one. Bytes
    behind the end of the disk read as zero. Both are True only where the disk has grown.
    """

    size_before: int
    size_after: int
    start: Int64Array
    length: Int64Array
    zero: BoolArray
    was_zero: BoolArray

    def extents(self) -> ExtentMap:
        """Return the ranges as data and zero, neighbours joined, with the range by which the disk has grown."""
        return ExtentMap(self.start, self.length, self.zero).merged()


def compare(repository: Repository, before: ResolvedChain | None, after: ResolvedChain) -> Difference:
    """Compare a disk at two points. `before` is None when the disk did not exist. Raises StoredDamage."""
    return _changed(*_contents(repository, before, after))


@dataclass(frozen=True, slots=True)
class _DiskFrames:
    """The pieces of a resolved disk: the start, length and digest of each piece's frame (empty where zero)."""

    size: int
    start: Int64Array
    zero: BoolArray
    frame_start: Int64Array
    frame_length: Int64Array
    digest: npt.NDArray[np.void]


def _contents(
    repository: Repository, before: ResolvedChain | None, after: ResolvedChain
) -> tuple[_DiskFrames, _DiskFrames]:
    """Return the frames of both points. Read the frames of a stream that both are based on once, then drop them."""
    pairs = [(_zeroes(resolved), resolved) for resolved in (before, after)]
    needed: dict[tuple[str, int], list[tuple[_DiskFrames, ResolvedChain, int]]] = {}
    for content, resolved in pairs:
        if resolved is None:
            continue
        for layer in resolved.map.layers_of_data():
            source = resolved.sources[layer]
            of_index = needed.setdefault((source.indexed.stream_id, source.number), [])
            of_index.append((content, resolved, layer))
    for readers in needed.values():
        kept = (resolved.frames.get(layer) for _, resolved, layer in readers)
        frames = next((known for known in kept if known is not None), None)
        if frames is None:
            frames = frames_of(repository, readers[0][1].sources[readers[0][2]])
        for content, resolved, layer in readers:
            mine = np.flatnonzero((resolved.map.layer == layer) & ~resolved.map.zero)
            number = frames.numbers_of(resolved.map.start[mine])
            content.frame_start[mine] = frames.start[number] - frames.skip[number]
            content.frame_length[mine] = frames.frame_length[number]
            content.digest[mine] = frames.digests.view(DIGEST)[number]
    return pairs[0][0], pairs[1][0]


def _zeroes(resolved: ResolvedChain | None) -> _DiskFrames:
    """Return a disk whose frames are not filled in yet."""
    if resolved is None:
        nothing = np.zeros(0, np.int64)
        return _DiskFrames(0, nothing, np.zeros(0, np.bool_), nothing, nothing, np.zeros(0, DIGEST))
    point_map = resolved.map
    count = len(point_map)
    return _DiskFrames(
        point_map.size,
        point_map.start,
        point_map.zero,
        np.full(count, -1, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, DIGEST),
    )


def _changed(before: _DiskFrames, after: _DiskFrames) -> Difference:
    """Return the ranges of `after` that differ from `before`. The range by which the disk has grown differs."""
    cuts = np.unique(np.concatenate((before.start, after.start, [before.size, after.size])))
    cuts = cuts[cuts <= after.size]
    start, length = cuts[:-1], np.diff(cuts)
    new = np.searchsorted(after.start, start, side="right") - 1
    common = start < before.size
    old = np.searchsorted(before.start, start, side="right") - 1
    # Behind the end of the old disk there is no piece to compare with; any index will do.
    old = np.where(common & (old >= 0), old, 0)
    same = np.zeros(len(start), np.bool_)
    was_zero = np.ones(len(start), np.bool_)
    if before.size:
        was_zero = ~common | before.zero[old]
        both_data = ~before.zero[old] & ~after.zero[new]
        same_frame = (
            (before.frame_start[old] == after.frame_start[new])
            & (before.frame_length[old] == after.frame_length[new])
            & (before.digest[old] == after.digest[new])
        )
        same = common & ((before.zero[old] & after.zero[new]) | (both_data & same_frame))
    changed = ~same
    return Difference(
        before.size,
        after.size,
        start[changed],
        length[changed],
        after.zero[new][changed],
        was_zero[changed],
    )
