# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what a rate limit costs that does not limit: counting each window, beside a copy in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import measure
import numpy as np
from measure import Result, Size

from pitr.copier.copy import copy
from pitr.copier.protocols import WINDOW
from pitr.extents import ExtentMap
from pitr.system import rate_limit

GOAL = 1.01
_ENOUGH = 1 << 60
#: Counting is so quick that it is measured this many times over.
_TIMES = 100


class _Memory:
    """A source whose data is one buffer again and again, and the sink that drops it."""

    max_readers = max_writers = 2
    reads_zero = True

    def __init__(self, size: int) -> None:
        self.size = size
        self._data = bytes(range(256)) * 4096

    def extents(self) -> ExtentMap:
        return ExtentMap(np.zeros(1, np.int64), np.full(1, self.size, np.int64), np.zeros(1, np.bool_))

    @contextmanager
    def open_reader(self) -> Iterator[_Memory]:
        yield self

    @contextmanager
    def open_writer(self) -> Iterator[_Memory]:
        yield self

    def read_ranges(self, ranges: list[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        while at < len(buffer):
            length = min(len(self._data), len(buffer) - at)
            buffer[at : at + length] = self._data[:length]
            at += length

    def write(self, offset: int, data: memoryview) -> None:
        """Drop the data."""

    def zero(self, offset: int, length: int) -> None:
        """Drop the range."""

    def flush(self) -> None:
        """Do nothing."""


def benchmark(size: Size) -> list[Result]:
    memory = _Memory(4 * size.disk_bytes)
    windows = memory.size // WINDOW

    def copied() -> float:
        started = time.process_time()
        copy(memory, memory, workers=2)  # type: ignore[arg-type]
        return time.process_time() - started

    def counted() -> float:
        """The time for the windows of one copy; a difference of two copies would drown in their own noise."""
        with rate_limit.limited(_ENOUGH):
            started = time.process_time()
            for _ in range(_TIMES * windows):
                rate_limit.spend(WINDOW)
            return (time.process_time() - started) / _TIMES

    copied()
    samples = measure.in_turn(size.runs, {"copied": copied, "counted": counted})
    free, cost = measure.median(samples["copied"]), measure.median(samples["counted"])
    what = "a rate limit that does not limit"
    return [Result(what, free + cost, free, "s of CPU", GOAL, "no limit", "", samples)]
