# SPDX-License-Identifier: GPL-2.0-or-later
"""What an image lacks of a stored point, so that a restore writes only that.

The image is read once. Where it holds a whole frame of the point, its digest proves that, and the blob is not read.
Other ranges are compared byte by byte with the stored data, in blocks of 64 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pitr.copier.plan import plan
from pitr.copier.protocols import WINDOW, Reader, Source
from pitr.copier.wrapped import WrappedSource
from pitr.endpoints.points.comparing import ComparedPoint, ComparingWriter
from pitr.endpoints.points.point import PointSource
from pitr.extents import ExtentMap
from pitr.system import rate_limit
from pitr.system.cancellation import Cancelled, is_cancelled
from pitr.system.closing import Closes


class MissingSource(WrappedSource[PointSource]):
    """The ranges of a point that an image lacks. The point stays its caller's to close."""

    def __init__(self, point: PointSource, missing: ExtentMap) -> None:
        super().__init__(point)
        self._missing = missing

    def extents(self) -> ExtentMap:
        return self._missing


def missing_ranges(image: Source, point: ComparedPoint, extents: ExtentMap) -> ExtentMap:
    """Return the ranges in which `image` differs from `point`, whose map of the whole disk is `extents`.

    Bytes behind the end of the image read as zero. Raises StoredDamage, Cancelled, and the errors of the image.
    """
    ranges = _Ranges()
    with image.open_reader() as reader, ComparingWriter(ranges, point) as comparing:
        _pass_on(image, reader, comparing)
    size = image.size
    tail = extents.between(size, int(extents.length.sum()))
    found = [*ranges.found, *((start, length) for start, length, zero in tail if not zero)]
    return _within(extents, sorted(found))


class _Ranges(Closes):
    """Keeps the ranges that are written or zeroed, and not their bytes: (start, length)."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []

    def write(self, offset: int, data: memoryview) -> None:
        self.found.append((offset, len(data)))

    def zero(self, offset: int, length: int) -> None:
        self.found.append((offset, length))

    def take(self) -> Sequence[object]:
        return ()

    def close(self) -> None:
        pass


def _pass_on(image: Source, reader: Reader, comparing: ComparingWriter) -> None:
    buffer = bytearray(WINDOW)
    for window in plan(image.extents(), WINDOW):
        if is_cancelled():
            raise Cancelled("the comparison was cancelled")
        rate_limit.spend(window.data_bytes)
        at = 0
        with memoryview(buffer)[: window.data_bytes] as data:
            if window.data_ranges:
                reader.read_ranges(window.data_ranges, data)
            for extent in window.extents:
                if extent.zero:
                    comparing.zero(extent.start, extent.length)
                else:
                    comparing.write(extent.start, data[at : at + extent.length])
                    at += extent.length


def _within(extents: ExtentMap, ranges: Sequence[tuple[int, int]]) -> ExtentMap:
    """Return the part of `extents` in the sorted, disjoint ranges."""
    return ExtentMap.of(_clipped(extents, ranges)).merged()


def _clipped(extents: ExtentMap, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    ends = extents.start + extents.length
    for start, length in ranges:
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(extents.start, start + length, side="left"))
        for row in range(first, last):
            begin = max(int(extents.start[row]), start)
            yield begin, min(int(ends[row]), start + length) - begin, bool(extents.zero[row])
