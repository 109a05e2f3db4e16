# SPDX-License-Identifier: GPL-2.0-or-later
"""The resolver: a chain of streams as one map of the disk at a point in time.

The newest stream counts first; each older one only fills what is still open; what is open at the end is zero.
Laying one layer over another is associative, so layers are combined in pairs of about equal weight: the cost is
that of sorting all extents, whatever the number of layers. Everything works on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pitr.extents import BoolArray, ExtentMap, Int64Array

#: The layer of what no stream of the chain has ever written: it reads as zero.
NEVER_WRITTEN = -1


@dataclass(frozen=True, slots=True)
class Layer:
    """One stream of a chain: its extents (one a row of its index) and the size of the disk at its point."""

    extents: ExtentMap
    size: int


@dataclass(frozen=True, slots=True)
class PointMap:
    """A disk at a point in time: sorted, disjoint, gapless pieces of `[0, size)`.

    `start`, `length`: bytes. `layer`: position in the chain, newest first, or NEVER_WRITTEN. `row`: the row of
    that layer's extents that the piece is of (-1 with NEVER_WRITTEN). `zero`: whether it reads as zero.
    """

    size: int
    start: Int64Array
    length: Int64Array
    layer: npt.NDArray[np.int32]
    row: Int64Array
    zero: BoolArray

    def __len__(self) -> int:
        return len(self.start)

    def extents(self) -> ExtentMap:
        """The pieces as data and zero ranges, neighbours joined."""
        return ExtentMap(self.start, self.length, self.zero).merged()


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Sorted, disjoint pieces; `row` counts the rows of all layers, newest layer first."""

    start: Int64Array
    end: Int64Array
    row: Int64Array


def resolve(layers: Sequence[Layer]) -> PointMap:
    """Combine `layers`, newest first, into the map of the newest layer's point.

    The disk had a size of its own at each point: growth that nothing was written to reads as zero, and what a
    shrink cut off does not come back when the disk grows again.
    """
    if not layers:
        raise ValueError("a chain has at least one stream")
    size = layers[0].size
    bases = np.cumsum([0, *(len(layer.extents) for layer in layers)])
    pieces: list[_Pieces] = []
    limit = size
    for layer, base in zip(layers, bases[:-1], strict=True):
        limit = min(limit, layer.size)
        pieces.append(_clipped(layer.extents, int(base), limit))
    combined = _filled(_combine([piece for piece in pieces if len(piece.start)] or pieces[:1]), size)

    row = combined.row
    written = row >= 0
    layer_of = np.where(written, np.searchsorted(bases, row, side="right") - 1, NEVER_WRITTEN).astype(
        np.int32
    )
    zero = np.ones(len(row), np.bool_)
    all_zero = np.concatenate([layer.extents.zero for layer in layers])
    zero[written] = all_zero[row[written]]
    own_row = np.where(written, row - bases[layer_of], -1)
    return PointMap(size, combined.start, combined.end - combined.start, layer_of, own_row, zero)


def _clipped(extents: ExtentMap, base: int, limit: int) -> _Pieces:
    count = int(np.searchsorted(extents.start, limit, side="left"))
    start = extents.start[:count]
    end = np.minimum(start + extents.length[:count], limit)
    return _Pieces(start, end, np.arange(base, base + count, dtype=np.int64))


def _combine(pieces: Sequence[_Pieces]) -> _Pieces:
    """Lay each of `pieces`, none of them empty beside others, over all that follow it."""
    if len(pieces) == 1:
        return pieces[0]
    weights = np.cumsum([len(piece.start) for piece in pieces])
    middle = int(np.searchsorted(weights, weights[-1] / 2, side="left")) + 1
    middle = max(1, min(middle, len(pieces) - 1))
    return _overlay(_combine(pieces[:middle]), _combine(pieces[middle:]))


def _overlay(newer: _Pieces, older: _Pieces) -> _Pieces:
    """All of `newer`, and of `older` what lies in the gaps of `newer`.

    ::

        newer      |  AAAA      BB  |
        gaps       |00    111111  2222...
        older      |aaaaaaaaa  bbbbb|
        result     |aaAAAAaaa  bBBbb|
    """
    if len(newer.start) == 0:
        return older
    if len(older.start) == 0:
        return newer
    # Gap k is what lies between piece k - 1 and piece k of `newer`, the first and last being open.
    gap_start = np.concatenate(([np.int64(0)], newer.end))
    gap_end = np.concatenate((newer.start, [np.iinfo(np.int64).max]))
    first = np.searchsorted(gap_end, older.start, side="right")
    last = np.searchsorted(gap_start, older.end, side="left")
    counts = np.maximum(last - first, 0)
    source = np.repeat(np.arange(len(counts)), counts)
    gap = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    start = np.maximum(older.start[source], gap_start[gap])
    end = np.minimum(older.end[source], gap_end[gap])
    # Two pieces of `newer` that touch leave a gap without length between them.
    visible = start < end
    start, end, row = start[visible], end[visible], older.row[source[visible]]

    merged_start = np.concatenate((newer.start, start))
    order = np.argsort(merged_start, kind="stable")
    return _Pieces(
        merged_start[order],
        np.concatenate((newer.end, end))[order],
        np.concatenate((newer.row, row))[order],
    )


def _filled(pieces: _Pieces, size: int) -> _Pieces:
    """Fill all gaps of `[0, size)` with pieces of row -1."""
    whole = _Pieces(
        np.zeros(1 if size else 0, np.int64),
        np.full(1 if size else 0, size, np.int64),
        np.full(1 if size else 0, -1, np.int64),
    )
    return _overlay(pieces, whole)
