# SPDX-License-Identifier: GPL-2.0-or-later
"""The common behaviour of all sources and sinks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pitr.copier.protocols import Source
from pitr.errors import PitrError
from tests.support.disk_kinds import KINDS, Make

#: A multiple of 512 but not of 64 KiB, as oVirt allows.
SIZE = 10487296


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    with KINDS[request.param](tmp_path, request) as making:
        yield making


def read(source: Source, ranges: list[tuple[int, int]]) -> bytes:
    buffer = bytearray(sum(length for _, length in ranges))
    with source.open_reader() as reader:
        reader.read_ranges(ranges, memoryview(buffer))
    return bytes(buffer)


def cut(size: int, rng: random.Random, longest: int) -> list[tuple[int, int]]:
    """Cut `[0, size)` into pieces of whole sectors."""
    pieces = []
    at = 0
    while at < size:
        length = min(size - at, rng.randrange(1, longest // 512) * 512)
        pieces.append((at, length))
        at += length
    return pieces


@pytest.mark.parametrize("size", [512, 1 << 20, SIZE])
def test_what_several_writers_wrote_is_what_several_readers_read(make: Make, size: int) -> None:
    rng = random.Random(size)
    expected = bytearray(size)
    disk = make(size)
    pieces = cut(size, rng, 1 << 20)
    kinds = [rng.choice(["data", "data", "zero", "nothing"]) for _ in pieces]
    for (offset, length), kind in zip(pieces, kinds, strict=True):
        if kind == "data":
            expected[offset : offset + length] = rng.randbytes(length)

    workers = min(3, disk.sink.max_writers)

    def write(worker: int) -> None:
        with disk.sink.open_writer() as writer:
            for (offset, length), kind in list(zip(pieces, kinds, strict=True))[worker::workers]:
                if kind == "data":
                    writer.write(offset, memoryview(expected)[offset : offset + length])
                elif kind == "zero" or not disk.sink.reads_zero:
                    writer.zero(offset, length)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write, range(workers)))
    disk.sink.flush()
    disk.sink.abort()

    with disk.source() as source:
        assert source.size == size
        assert read(source, [(0, size)]) == expected
        with ThreadPoolExecutor(min(3, source.max_readers)) as pool:
            parts = list(pool.map(lambda piece: read(source, [piece]), pieces))
        assert b"".join(parts) == expected


def test_zero_hides_what_was_written_before(make: Make) -> None:
    disk = make(SIZE)
    expected = bytearray(b"x" * SIZE)
    with disk.sink.open_writer() as writer:
        writer.write(0, memoryview(expected))
        for offset, length in [(0, 512), (65536, 131072), (1000 * 512, 3 * 512), (SIZE - 1536, 1536)]:
            writer.zero(offset, length)
            expected[offset : offset + length] = bytes(length)
    disk.sink.flush()
    with disk.source() as source:
        assert read(source, [(0, SIZE)]) == expected


def test_extents_cover_the_disk_and_no_data_is_called_zero(make: Make) -> None:
    disk = make(SIZE)
    expected = bytearray(SIZE)
    with disk.sink.open_writer() as writer:
        for offset, length in [(3 << 20, 65536), (5 << 20, 512), (SIZE - 512, 512)]:
            expected[offset : offset + length] = b"d" * length
            writer.write(offset, memoryview(expected)[offset : offset + length])
    disk.sink.flush()
    with disk.source() as source:
        extents = source.extents().checked(SIZE, whole=True)
        for start, length, zero in extents:
            assert not zero or not any(expected[start : start + length])
        if type(source).__name__ != "MemorySource":
            assert extents.data_bytes < 1 << 20, "what was never written is found to be zero"


def test_a_few_sectors_here_and_there_are_read_in_one_call(make: Make) -> None:
    disk = make(SIZE)
    content = random.Random(1).randbytes(SIZE)
    with disk.sink.open_writer() as writer:
        writer.write(0, memoryview(content))
    disk.sink.flush()
    ranges = [
        (0, 512),
        (1024, 512),
        (1536, 4096),
        (300 << 10, 70 << 10),
        (4 << 20, 1 << 20),
        (SIZE - 512, 512),
    ]
    with disk.source() as source:
        assert read(source, ranges) == b"".join(content[at : at + length] for at, length in ranges)
        assert read(source, []) == b""


def test_as_many_readers_as_promised_work_at_once(make: Make) -> None:
    disk = make(1 << 20)
    with disk.sink.open_writer() as writer:
        writer.write(0, memoryview(b"r" * (1 << 20)))
    disk.sink.flush()
    with disk.source() as source:
        readers = [source.open_reader() for _ in range(source.max_readers)]
        try:
            for reader in readers:
                buffer = bytearray(1 << 20)
                reader.read_ranges([(0, 1 << 20)], memoryview(buffer))
                assert buffer == b"r" * (1 << 20)
        finally:
            for reader in readers:
                reader.close()


def test_ranges_beyond_the_end_are_refused(make: Make) -> None:
    disk = make(1 << 20)
    with disk.sink.open_writer() as writer:
        with pytest.raises(PitrError):
            writer.write((1 << 20) - 512, memoryview(bytes(1024)))
        with pytest.raises(PitrError):
            writer.zero(1 << 20, 512)
    disk.sink.flush()
    with disk.source() as source, pytest.raises(PitrError):
        read(source, [((1 << 20) - 512, 1024)])


def test_aborting_is_harmless_before_and_after_everything(make: Make) -> None:
    disk = make(1 << 20)
    with disk.sink.open_writer() as writer:
        writer.write(0, memoryview(b"x" * 512))
    disk.sink.abort()
    disk.sink.abort()
