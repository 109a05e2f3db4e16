# SPDX-License-Identifier: GPL-2.0-or-later
"""Divide a disk into cells of equal size, and count the bytes of ranges in each cell, to draw a map of the disk.

This works on arrays. The cost depends on the number of cells, hardly on the number of ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pitr.extents import Int64Array

#: The length of a cell is a multiple of this, because guests write multiples of it.
GRAIN = 4096


@dataclass(frozen=True, slots=True)
class Cells:
    """The range `[0, size)` of a disk as `count` cells of `length` bytes; the last cell may be shorter."""

    size: int
    length: int
    count: int

    @classmethod
    def of(cls, size: int, most: int, *, round_length: bool = False) -> Cells:
        """Divide a disk into at most `most` cells; `round_length`: the cell length is a power of two."""
        length = max(GRAIN, -(-size // (most * GRAIN)) * GRAIN)
        if round_length:
            length = 1 << (length - 1).bit_length()
        return cls(size, length, -(-size // length))

    def bounds(self) -> Int64Array:
        """Return the start of each cell and the end of the last one: `count` + 1 offsets in bytes."""
        return np.minimum(np.arange(self.count + 1, dtype=np.int64) * self.length, self.size)

    def lengths(self) -> Int64Array:
        """Return the length of each cell in bytes."""
        return np.diff(self.bounds())

    def covered(self, start: Int64Array, length: Int64Array) -> Int64Array:
        """Return the bytes of each cell in these ranges, which must be sorted and disjoint."""
        if len(start) == 0:
            return np.zeros(self.count, np.int64)
        bounds = self.bounds()
        before = np.concatenate(([np.int64(0)], np.cumsum(length)))
        # Of the ranges that start at or before a bound, all but the last one end before it.
        number = np.searchsorted(start, bounds, side="right")
        last = np.maximum(number - 1, 0)
        partly = np.minimum(bounds - start[last], length[last])
        return np.diff(np.where(number > 0, before[last] + partly, 0))
