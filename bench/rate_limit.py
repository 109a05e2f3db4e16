# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what a rate limit costs that does not limit: a copy in memory, with and without one, in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import measure
import numpy as np
from measure import Result, Size

from pitr.copier.copy import copy
from pitr.extents import ExtentMap
from pitr.system import rate_limit

GOAL = 1.01
_ENOUGH = 1 << 60


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

    def seconds(rate: int | None) -> float:
        started = time.process_time()
        with rate_limit.limited(rate):
            copy(memory, memory, workers=2)  # type: ignore[arg-type]
        return time.process_time() - started

    programs = {"limited": lambda: seconds(_ENOUGH), "free": lambda: seconds(None)}
    for program in programs.values():
        program()
    samples = measure.in_turn(4 * size.runs, programs)
    limited, free = measure.median(samples["limited"]), measure.median(samples["free"])
    return [
        Result("a rate limit that does not limit", limited, free, "s of CPU", GOAL, "no limit", "", samples)
    ]
