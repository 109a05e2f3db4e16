# SPDX-License-Identifier: GPL-2.0-or-later
"""The resolver: it combines a chain of streams into one map of the disk at a point.

Newer streams hide older ones, and ranges that no stream holds are zero. Overlaying layers is associative, so the
resolver combines layers in pairs of about equal size, at the cost of sorting all extents. It works on arrays. It
resolves large disks part by part, so that the memory for a part stays small beside the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pitr.extents import BoolArray, ExtentMap, Int64Array

#: The layer of ranges that no stream of the chain holds. They read as zero.
NEVER_WRITTEN = -1
#: How many rows are resolved at once. Each takes about 150 bytes meanwhile, little beside millions of extents.
_PART = 1 << 18
#: Every row of this number is a sample of where the rows are.
_SAMPLE = 1 << 8
_COLUMNS = ("start", "length", "layer", "row", "zero")


@dataclass(frozen=True, slots=True)
class Layer:
    """One stream of a chain: its extents (one for each row of its index) and the disk's size at its point."""

    extents: ExtentMap
    size: int


@dataclass(frozen=True, slots=True)
class PointMap:
    """A disk at a point: sorted, disjoint pieces that cover `[0, size)` without gaps.

    `start` and `length` are bytes. `layer` is the position in the chain, newest first, or NEVER_WRITTEN. `row` is
    the piece's row in that layer's extents (-1 for NEVER_WRITTEN). `zero` says whether the piece reads as zero.
    """

    size: int
    start: Int64Array
    length: Int64Array
    layer: npt.NDArray[np.int32]
    row: Int64Array
    zero: BoolArray

    def __len__(self) -> int:
        return len(self.start)

    def layers_of_data(self) -> list[int]:
        """Return the layers that have visible data, in order. numpy's `unique` would import 2 MB of Python first."""
        layers: list[int] = np.flatnonzero(np.bincount(self.layer[~self.zero])).tolist()
        return layers

    def extents(self) -> ExtentMap:
        """Return the pieces as data and zero ranges, with adjacent ranges joined."""
        return ExtentMap(self.start, self.length, self.zero).merged()


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Sorted, disjoint pieces. `row` counts the rows of all layers, newest layer first."""

    start: Int64Array
    end: Int64Array
    row: Int64Array


def resolve(layers: Sequence[Layer]) -> PointMap:
    """Combine `layers`, newest first, into the map of the newest layer's point.

    The disk may have another size at each point. New space reads as zero until it is written. Data that a shrink
    removed does not come back when the disk grows again.
    """
    if not layers:
        raise ValueError("a chain has at least one stream")
    size = layers[0].size
    bases = np.cumsum([0, *(len(layer.extents) for layer in layers)])
    limits = np.minimum.accumulate([layer.size for layer in layers]).tolist()
    parts = [
        _part(layers, bases, limits, start, end) for start, end in pairwise([0, *_cuts(layers, size), size])
    ]
    return _joined(parts, size)


def _cuts(layers: Sequence[Layer], size: int) -> list[int]:
    """Return the offsets at which to cut the disk into parts of about _PART rows of all layers."""
    count = sum(len(layer.extents) for layer in layers)
    if count <= _PART:
        return []
    samples = np.sort(np.concatenate([layer.extents.start[_SAMPLE // 2 :: _SAMPLE] for layer in layers]))
    cuts = np.unique(samples[:: max(1, _PART // _SAMPLE)])
    return [int(cut) for cut in cuts if 0 < cut < size]


def _part(
    layers: Sequence[Layer], bases: Int64Array, limits: Sequence[int], part_start: int, part_end: int
) -> PointMap:
    """Resolve `[part_start, part_end)` of the disk."""
    pieces: list[_Pieces] = []
    zeros: list[BoolArray] = []
    firsts: list[int] = []
    base = 0
    # Rows are numbered within the part, layer after layer.
    part_bases = [0]
    for layer, limit in zip(layers, limits, strict=True):
        first, clipped = _clipped(layer.extents, base, part_start, min(part_end, limit))
        count = len(clipped.start)
        if count:
            pieces.append(clipped)
        zeros.append(layer.extents.zero[first : first + count])
        firsts.append(first)
        base += count
        part_bases.append(base)
    nothing = np.zeros(0, np.int64)
    combined = _combine(pieces) if pieces else _Pieces(nothing, nothing, nothing)
    combined = _filled(combined, part_start, part_end)

    row = combined.row
    written = row >= 0
    layer_of = np.where(written, np.searchsorted(part_bases, row, side="right") - 1, NEVER_WRITTEN).astype(
        np.int32
    )
    zero = np.ones(len(row), np.bool_)
    zero[written] = np.concatenate(zeros)[row[written]]
    shift = np.array(firsts, np.int64) - np.array(part_bases[:-1], np.int64)
    own_row = np.where(written, row + shift[layer_of], -1)
    return PointMap(part_end, combined.start, combined.end - combined.start, layer_of, own_row, zero)


def _joined(parts: list[PointMap], size: int) -> PointMap:
    """Concatenate the parts, which empties the list, and join the pieces at the cuts again."""
    if len(parts) == 1:
        return parts[0]
    second_halves: list[int] = []
    at = 0
    for before, after in pairwise(parts):
        at += len(before)
        if before.layer[-1] == after.layer[0] and before.row[-1] == after.row[0]:
            second_halves.append(at)
    columns = {name: [getattr(part, name) for part in parts] for name in _COLUMNS}
    parts.clear()
    joined: dict[str, Any] = {}
    for name in _COLUMNS:
        column = np.concatenate(columns.pop(name))
        if name == "length":
            # Backwards, because a piece may cross several cuts.
            for second in reversed(second_halves):
                column[second - 1] += column[second]
        joined[name] = np.delete(column, second_halves) if second_halves else column
    return PointMap(size, **joined)


def _clipped(extents: ExtentMap, base: int, start: int, end: int) -> tuple[int, _Pieces]:
    """Return the row of the first extent in `[start, end)`, and the extents cut at the bounds, numbered from `base`."""
    first = max(0, int(extents.start.searchsorted(start, side="right")) - 1)
    if first < len(extents) and int(extents.start[first] + extents.length[first]) <= start:
        first += 1
    # A row may reach into this part although the disk ended before it at the layer's point.
    last = max(first, int(extents.start.searchsorted(end, side="left"))) if start < end else first
    starts = extents.start[first:last]
    ends = np.minimum(starts + extents.length[first:last], end)
    return first, _Pieces(
        np.maximum(starts, start), ends, np.arange(base, base + last - first, dtype=np.int64)
    )


def _combine(pieces: Sequence[_Pieces]) -> _Pieces:
    """Overlay `pieces`, newest first. None may be empty unless it is the only one."""
    if len(pieces) == 1:
        return pieces[0]
    weights = np.cumsum([len(piece.start) for piece in pieces])
    middle = int(weights.searchsorted(weights[-1] / 2, side="left")) + 1
    middle = max(1, min(middle, len(pieces) - 1))
    return _overlay(_combine(pieces[:middle]), _combine(pieces[middle:]))


def _overlay(newer: _Pieces, older: _Pieces) -> _Pieces:
    """Return all of `newer`, with its gaps filled from `older`.

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
    # Methods instead of numpy functions save a twentieth of the time with many short layers.
    # Gap k is between piece k - 1 and piece k of `newer`; the first and last gap are unbounded.
    gap_start = np.concatenate(([np.int64(0)], newer.end))
    gap_end = np.concatenate((newer.start, [np.iinfo(np.int64).max]))
    first = gap_end.searchsorted(older.start, side="right")
    last = gap_start.searchsorted(older.end, side="left")
    counts = np.maximum(last - first, 0)
    source = np.arange(len(counts)).repeat(counts)
    gap = np.arange(len(source)) + (first - counts.cumsum() + counts).repeat(counts)
    start = np.maximum(older.start[source], gap_start[gap])
    end = np.minimum(older.end[source], gap_end[gap])
    # Adjacent pieces of `newer` have an empty gap between them.
    visible = start < end
    start, end, row = start[visible], end[visible], older.row[source[visible]]

    merged_start = np.concatenate((newer.start, start))
    order = merged_start.argsort(kind="stable")
    return _Pieces(
        merged_start[order],
        np.concatenate((newer.end, end))[order],
        np.concatenate((newer.row, row))[order],
    )


def _filled(pieces: _Pieces, start: int, end: int) -> _Pieces:
    """Return the pieces with all gaps in `[start, end)` filled by pieces of row -1."""
    count = 1 if start < end else 0
    whole = _Pieces(
        np.full(count, start, np.int64), np.full(count, end, np.int64), np.full(count, -1, np.int64)
    )
    return _overlay(pieces, whole)
