# SPDX-License-Identifier: GPL-2.0-or-later
"""A source over another one: extents of the upper source hide the lower source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from pitr.copier.protocols import Reader, Source
from pitr.extents import ExtentMap
from pitr.repository.resolver import Layer, resolve
from pitr.system.closing import Closes

_UPPER = 0


class OverlaySource:
    """`upper`, an incremental, over `lower`, a whole disk. It has the size of `upper`. The caller closes both."""

    def __init__(self, upper: Source, lower: Source) -> None:
        self._upper = upper
        self._lower = lower
        self._map = resolve([Layer(upper.extents(), upper.size), Layer(lower.extents(), lower.size)])
        self._end = self._map.start + self._map.length

    @property
    def size(self) -> int:
        return self._upper.size

    @property
    def max_readers(self) -> int:
        return min(self._upper.max_readers, self._lower.max_readers)

    def extents(self) -> ExtentMap:
        return self._map.extents()

    def open_reader(self) -> OverlayReader:
        return OverlayReader(self)

    def open_readers(self) -> tuple[Reader, Reader]:
        return self._upper.open_reader(), self._lower.open_reader()

    def parts(self, start: int, end: int) -> list[tuple[bool, int, int]]:
        """Return the parts of `[start, end)`: whether the upper source has it, start and length."""
        first = int(np.searchsorted(self._end, start, side="right"))
        last = int(np.searchsorted(self._map.start, end, side="left"))
        parts = []
        for number in range(first, last):
            begin = max(int(self._map.start[number]), start)
            stop = min(int(self._end[number]), end)
            parts.append((int(self._map.layer[number]) == _UPPER, begin, stop - begin))
        return parts


class OverlayReader(Closes):
    """One worker's readers of both sources. It reads data extents only."""

    def __init__(self, source: OverlaySource) -> None:
        self._source = source
        with ExitStack() as stack:
            upper, lower = source.open_readers()
            self._readers = {True: stack.enter_context(upper), False: stack.enter_context(lower)}
            self._stack = stack.pop_all()

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        for offset, length in ranges:
            for is_upper, start, count in self._source.parts(offset, offset + length):
                self._readers[is_upper].read_ranges([(start, count)], buffer[at : at + count])
                at += count

    def close(self) -> None:
        self._stack.close()
