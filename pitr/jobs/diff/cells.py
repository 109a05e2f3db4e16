# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk cut into cells of one size, and how much of each cell some ranges cover: what a map of a disk is drawn from.

On arrays: the cost is that of looking each cell's bounds up, whatever the number of ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pitr.extents import Int64Array

#: No cell is smaller, and each is a multiple of it: what guests write is.
GRAIN = 4096


@dataclass(frozen=True, slots=True)
class Cells:
    """`[0, size)` of a disk as `count` cells of `length` bytes, the last one possibly shorter."""

    size: int
    length: int
    count: int

    @classmethod
    def of(cls, size: int, most: int, *, round_length: bool = False) -> Cells:
        """Cut a disk into at most `most` cells; `round_length`: of a length that is a power of two."""
        length = max(GRAIN, -(-size // (most * GRAIN)) * GRAIN)
        if round_length:
            length = 1 << (length - 1).bit_length()
        return cls(size, length, -(-size // length))

    def bounds(self) -> Int64Array:
        """Where the cells begin, and the end of the last one: `count` + 1 offsets in bytes."""
        return np.minimum(np.arange(self.count + 1, dtype=np.int64) * self.length, self.size)

    def lengths(self) -> Int64Array:
        return np.diff(self.bounds())

    def covered(self, start: Int64Array, length: Int64Array) -> Int64Array:
        """How many bytes of each cell lie in these ranges, which are sorted and disjoint."""
        if len(start) == 0:
            return np.zeros(self.count, np.int64)
        bounds = self.bounds()
        before = np.concatenate(([np.int64(0)], np.cumsum(length)))
        # Of the ranges that begin at or before a bound, all but the last one end before it.
        number = np.searchsorted(start, bounds, side="right")
        last = np.maximum(number - 1, 0)
        partly = np.minimum(bounds - start[last], length[last])
        return np.diff(np.where(number > 0, before[last] + partly, 0))
