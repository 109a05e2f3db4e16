# SPDX-License-Identifier: GPL-2.0-or-later
"""A point read at any offset equals an array that all backups were written to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.point import open_point
from pitr.repository import Repository
from tests.support.points import Writer, applied, disk

pytestmark = pytest.mark.usefixtures("quick_disk")


def a_disk(chance: random.Random, size: int, kinds: str) -> str:
    """A disk of `size` bytes in parts between a few bytes and a third of the disk."""
    parts = []
    while size:
        length = min(
            size, chance.choice((chance.randrange(1, 100), 4096, 65536, chance.randrange(1, 700_000)))
        )
        parts.append(f"{length}:{chance.choice(kinds)}")
        size -= length
    return " ".join(parts)


@pytest.mark.parametrize("frame_size", [4096, 65536, 1 << 20, 1 << 22])
def test_every_range_of_a_random_chain_is_right(tmp_path: Path, frame_size: int) -> None:
    chance = random.Random(frame_size)
    with Repository.create(tmp_path / "repository") as repository:
        writer = Writer(repository)
        text = a_disk(chance, 2_500_000, "ABC0")
        backup, content = writer.add(text, frame_size=frame_size), disk(text)[0]
        for size in (2_500_000, 3_333_333, 2_999_999):
            text = a_disk(chance, size, "DEF0----")
            backup, content = writer.add(text, frame_size=frame_size), applied(content, text)
        point = open_point(repository, backup, backup.streams[0])
        with FrameCache(3 << 20, threads=2) as cache, CachedPoint(point, cache) as cached:
            assert cached.extents().covers(len(content))
            for _ in range(400):
                start = chance.randrange(len(content))
                length = min(chance.choice((1, 512, 4096, 70_000, 2_000_000)), len(content) - start)
                if chance.random() < 0.3:
                    cached.ask(start, length * 2)
                got = bytearray()
                for count, data in cached.read(start, length):
                    # Neighbouring zero ranges come in one piece.
                    got += bytes(count) if data is None else data
                    assert data is None or len(data) == count
                assert got == content[start : start + length]
            # Some frames were read, evicted and read again.
            assert point.frames_read > 3
            assert cache.used <= 3 << 20


def test_zero_ranges_need_no_frames_and_come_in_one_piece(tmp_path: Path) -> None:
    with Repository.create(tmp_path / "repository") as repository:
        backup = Writer(repository).add("1m:A 20m:0 1m:B")
        point = open_point(repository, backup, backup.streams[0])
        with FrameCache(1 << 20) as cache, CachedPoint(point, cache) as cached:
            assert list(cached.read(1 << 20, 20 << 20)) == [(20 << 20, None)]
            assert cached.is_ready(1 << 20, 20 << 20) and not cached.is_ready(1 << 20, (20 << 20) + 1)
            assert list(cached.read(5, 0)) == []
            assert point.frames_read == 0
