# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy under a limit of the rate moves small pieces, so that no transfer idles until the engine ends it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pitr.copier import copy
from pitr.endpoints.images.memory import MemoryReader, MemorySink, MemorySource
from pitr.system import rate_limit

MiB = 1 << 20


class _Watched(MemorySource):
    """Notes how much is read at a time."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content
        self.read: list[int] = []

    def open_reader(self) -> MemoryReader:
        source = self

        class Reader(MemoryReader):
            def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
                source.read.append(len(buffer))
                super().read_ranges(ranges, buffer)

        return Reader(memoryview(self.content))


@pytest.mark.parametrize(
    ("rate", "largest"),
    [
        (None, 8 * MiB),
        (1000 * MiB, 8 * MiB),
        (20 * MiB, 8 * MiB),
        (15 * MiB // 2, 4 * MiB),
        (5 * MiB, 4 * MiB),
    ],
)
def test_a_window_is_at_most_a_second(rate: int | None, largest: int) -> None:
    source = _Watched(bytes(range(256)) * (8 * MiB // 256))
    sink = MemorySink(source.size)
    with rate_limit.limited(rate):
        copy(source, sink, workers=2)
    assert sink.content == source.content
    assert max(source.read) == largest and sum(source.read) == source.size


def test_the_smallest_window_is_a_mebibyte() -> None:
    source = _Watched(b"A" * (2 * MiB))
    with rate_limit.limited(MiB // 2 * 3):
        copy(source, MemorySink(source.size))
    assert source.read == [MiB, MiB]
