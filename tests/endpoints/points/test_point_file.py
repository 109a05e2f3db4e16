# SPDX-License-Identifier: GPL-2.0-or-later
"""A point as a file: bytes at any offset, loaded ahead of sequential reads."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.point import open_point
from pitr.endpoints.points.point_file import PointFile
from pitr.errors import PitrError
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.system.read_ahead import ReadAhead
from tests.support.pitr import wait_until
from tests.support.points import Writer, applied, blob_path, disk, flip_bit

pytestmark = pytest.mark.usefixtures("quick_disk")

MIB = 1 << 20


def test_the_bytes_at_any_offset(repository: Repository) -> None:
    text, change = "1m:A 1m:0 700k:B 300k:C 2m:D", "512k:- 64k:E 1m:- 64k:0 3m:-"
    writer = Writer(repository)
    writer.add(text)
    backup, content = writer.add(change), applied(disk(text)[0], change)
    chance = random.Random(2)
    point = open_point(repository, backup, backup.streams[0])
    with FrameCache(2 * MIB, 1) as cache, PointFile(CachedPoint(point, cache)) as file:
        assert file.size == len(content)
        assert file.read_at(0, file.size + 5) == content
        for _ in range(300):
            start = chance.randrange(file.size)
            length = chance.choice((1, 512, 4096, MIB, 3 * MIB))
            read = file.read_at(start, length)
            assert type(read) is bytes and read == content[start : start + length]
        assert (file.read_at(-1, 5), file.read_at(file.size, 5), file.read_at(3, 0)) == (b"", b"", b"")


def test_who_reads_front_to_back_finds_the_next_frames_ready(repository: Repository) -> None:
    backup = Writer(repository).add("12m:A")
    point = open_point(repository, backup, backup.streams[0])
    with FrameCache(8 * MIB, 1) as cache:
        cached = CachedPoint(point, cache)
        file = PointFile(cached)
        for start in range(0, 3 * MIB, MIB):
            file.read_at(start, MIB)
        wait_until(lambda: cached.is_ready(3 * MIB, MIB), "what comes next is there")
        read = point.frames_read
        file.read_at(9 * MIB, 512)
        assert not cached.is_ready(10 * MIB, MIB), "one read elsewhere is no run"
        assert point.frames_read <= read + 2
        file.close()


def test_damage_is_told_to_who_reads_it_and_not_to_who_reads_up_to_it(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    backup = Writer(repository).add("8m:A")
    stream = backup.streams[0]
    with repository.open_index(backup, stream) as index:
        row = list(index.rows())[4]
    assert row.blob_offset is not None
    flip_bit(blob_path(repository, stream), row.blob_offset + 20)
    point = open_point(repository, backup, stream)
    told: list[str] = []

    def on_damage(message: str, error: PitrError) -> None:
        assert isinstance(error, StoredDamage)
        told.append(message)

    cache = FrameCache(16 * MIB, 1)
    with PointFile(CachedPoint(point, cache, on_damage)) as file, cache:
        for start in range(0, 4 * MIB, MIB):
            assert file.read_at(start, MIB) == b"A" * MIB
        for _ in range(3):
            with pytest.raises(StoredDamage) as raised:
                file.read_at(4 * MIB, 512)
        assert raised.value.damage.start == 4 * MIB
        assert file.read_at(5 * MIB, MIB) == b"A" * MIB
    assert len(told) == 1 and told[0].startswith("1 MiB at 4194304: ")
    assert not caplog.records


def test_a_run_is_asked_for_in_large_pieces_and_no_further_than_is_worth_it() -> None:
    ahead = ReadAhead(8 * MIB)
    asked = [one for start in range(0, 64 * MIB, 4096) if (one := ahead.after(start, 4096)) is not None]
    assert asked[0] == (2 * MIB, 2 * MIB), "as much as was read, once that is a quarter of the most"
    assert all(one[0] + one[1] == two[0] for one, two in pairwise(asked)), "without gaps"
    assert len(asked) < 64 and asked[-1][0] + asked[-1][1] <= 64 * MIB + 8 * MIB


def test_reads_here_and_there_are_no_run() -> None:
    ahead = ReadAhead(8 * MIB)
    assert [ahead.after(start * 5 * MIB, MIB) for start in (7, 1, 4, 2, 9)] == [None] * 5
