# SPDX-License-Identifier: GPL-2.0-or-later
"""Extents of a disk as arrays: ranges with data and ranges of zeroes; the gaps between them are unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pitr.errors import FormatError

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: The largest disk. With it, start + length always fits into 64 signed bits.
MAX_SIZE = 1 << 60
_OBJECTS_AT_ONCE = 1 << 14


class Extent(NamedTuple):
    """A range of a disk, in bytes."""

    start: int
    length: int
    zero: bool


@dataclass(frozen=True, slots=True)
class ExtentMap:
    """Sorted, disjoint ranges of one disk: three arrays of one length.

    `start` and `length` are bytes (int64); `zero` is True for zeroes, False for data. Gaps between the ranges are
    unchanged. A map of a whole disk has no gap in `[0, size)`.
    """

    start: Int64Array
    length: Int64Array
    zero: BoolArray

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[Extent]:
        # All objects at once would take five times as much memory as the arrays.
        for at in range(0, len(self), _OBJECTS_AT_ONCE):
            part = slice(at, at + _OBJECTS_AT_ONCE)
            yield from map(
                Extent, self.start[part].tolist(), self.length[part].tolist(), self.zero[part].tolist()
            )

    @property
    def data_bytes(self) -> int:
        """The bytes of all data ranges."""
        return int(self.length[~self.zero].sum())

    @property
    def zero_bytes(self) -> int:
        """The bytes of all zero ranges."""
        return int(self.length[self.zero].sum())

    def covers(self, size: int) -> bool:
        """Return whether the ranges cover `[0, size)` without a gap and nothing beyond."""
        if len(self) == 0:
            return size == 0
        ends = self.start + self.length
        return bool(self.start[0] == 0 and ends[-1] == size and (self.start[1:] == ends[:-1]).all())

    @classmethod
    def of(cls, extents: Iterable[tuple[int, int, bool]]) -> ExtentMap:
        """Return a map of (start, length, zero) triples, which must be sorted and disjoint."""
        rows = list(extents)
        return cls(
            np.fromiter((row[0] for row in rows), np.int64, len(rows)),
            np.fromiter((row[1] for row in rows), np.int64, len(rows)),
            np.fromiter((row[2] for row in rows), np.bool_, len(rows)),
        )

    @classmethod
    def all_zero(cls, size: int) -> ExtentMap:
        """Return the map of an empty disk of `size` bytes."""
        return cls.of([(0, size, True)] if size else [])

    def checked(self, size: int, *, whole: bool) -> ExtentMap:
        """Return this map, from an untrusted source, if it is valid for a disk of `size` bytes.

        `whole` allows no gaps. Raises FormatError for ranges that are empty, negative, unsorted, overlapping or
        beyond the end.
        """
        if not 0 <= size <= MAX_SIZE:
            raise FormatError(f"a disk size of {size} bytes is not possible")
        if len(self):
            in_range = (
                (self.start >= 0)
                & (self.start <= size)
                & (self.length > 0)
                & (self.length <= size - self.start)
            )
            if not in_range.all():
                bad = int(np.flatnonzero(~in_range)[0])
                raise FormatError(
                    f"an extent at {self.start[bad]} of {self.length[bad]} bytes is outside a disk of {size} bytes"
                )
            if (self.start[1:] < self.start[:-1] + self.length[:-1]).any():
                raise FormatError("extents overlap or are not in order")
        if whole and not self.covers(size):
            raise FormatError(f"the extents do not cover the whole disk of {size} bytes")
        return self

    def clipped(self, size: int) -> ExtentMap:
        """Return the part of the extents in `[0, size)`."""
        return self.between(0, size)

    def between(self, start: int, end: int) -> ExtentMap:
        """Return the part of the extents in `[start, end)`."""
        first = int(np.searchsorted(self.start + self.length, start, side="right"))
        last = max(first, int(np.searchsorted(self.start, end, side="left")))
        starts = np.maximum(self.start[first:last], start)
        ends = np.minimum(self.start[first:last] + self.length[first:last], end)
        return ExtentMap(starts, ends - starts, self.zero[first:last])

    def merged(self) -> ExtentMap:
        """Return the map with adjacent ranges of the same kind joined."""
        if len(self) < 2:
            return self
        ends = self.start + self.length
        first = np.ones(len(self), np.bool_)
        first[1:] = (self.start[1:] != ends[:-1]) | (self.zero[1:] != self.zero[:-1])
        at = np.flatnonzero(first)
        last = np.append(at[1:] - 1, len(self) - 1)
        return ExtentMap(self.start[at], ends[last] - self.start[at], self.zero[at])
