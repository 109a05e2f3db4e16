# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan of a copy: a disk's extents, cut into windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pitr.copier.protocols import MAX_ZERO, WINDOW
from pitr.extents import Extent, ExtentMap


@dataclass(frozen=True, slots=True)
class Window:
    """What one worker copies at a time: extents in the order of the disk. Windows are numbered in that order."""

    number: int
    extents: tuple[Extent, ...]

    @property
    def data_ranges(self) -> list[tuple[int, int]]:
        return [(extent.start, extent.length) for extent in self.extents if not extent.zero]

    @property
    def data_bytes(self) -> int:
        return sum(extent.length for extent in self.extents if not extent.zero)


def plan(extents: ExtentMap, window: int = WINDOW, max_zero: int = MAX_ZERO) -> Iterator[Window]:
    """Cut `extents` into windows of at most `window` bytes of data, and zero ranges of at most `max_zero` bytes.

    A zero range belongs to the window that it begins in, however long it is.
    """
    number = 0
    gathered: list[Extent] = []
    window_end = 0
    for start, length, zero in extents.merged():
        end = start + length
        at = start
        while at < end:
            if gathered and at >= window_end:
                yield Window(number, tuple(gathered))
                number += 1
                gathered = []
            if not gathered:
                window_end = (at // window + 1) * window
            stop = min(end, at + max_zero if zero else window_end)
            gathered.append(Extent(at, stop - at, zero))
            at = stop
    if gathered:
        yield Window(number, tuple(gathered))
