# SPDX-License-Identifier: GPL-2.0-or-later
"""New streams: blob and index as pitr writes them, read by the real `zstd` and a small independent reader."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySource
from pitr.errors import FormatError, RepositoryError
from pitr.extents import ExtentMap
from pitr.model import Stream
from pitr.repository import Repository
from pitr.repository.index import Index, IndexRow
from pitr.repository.stream_sink import ZERO_BLOCK, StreamSink, cut
from tests.support.layout import stored
from tests.support.points import (
    Writer,
    applied,
    blob_path,
    disk,
    index_path,
    meta_of,
    new_stream,
    read_point,
    size_of,
    source,
    store_stream,
)

pytestmark = pytest.mark.usefixtures("quick_disk")

_MIB = 1 << 20
_EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "restore_blob.py"


def _unpacked(blob: Path) -> bytes:
    return subprocess.run(["zstd", "-dc", "--", blob], check=True, capture_output=True).stdout


def _parsed(stream: bytes) -> tuple[dict[str, object], list[tuple[str, int, int, bytes]]]:
    """Return the meta of a sparse stream, and (kind, start, length, data) of its extents."""
    parts: list[tuple[str, int, int, bytes]] = []
    at = 0
    while at < len(stream):
        line = stream[at : at + 40].decode()
        kind, start, length = line[:4], int(line[5:21], 16), int(line[22:38], 16)
        assert line == f"{kind} {start:016x} {length:016x}\r\n"
        at += 40
        payload = b""
        if kind in ("meta", "data"):
            payload = stream[at : at + length]
            assert stream[at + length : at + length + 2] == b"\r\n"
            at += length + 2
        parts.append((kind, start, length, payload))
    assert parts[0][0] == "meta"
    assert parts.pop() == ("stop", 0, 0, b"")
    return json.loads(parts[0][3]), parts[1:]


def _rows(path: Path) -> list[IndexRow]:
    with Index(path) as index:
        return list(index.rows())


def _random_disk(size: int, seed: int = 0) -> bytearray:
    """A disk of data, zeroes and small changes, none of them aligned."""
    numbers = random.Random(seed)
    content = bytearray(size)
    for _ in range(1 + size // 200_000):
        start, length = numbers.randrange(size), numbers.choice([1, 512, 5000, 65536, 300_000])
        content[start : start + length] = numbers.randbytes(min(length, size - start))
    return content


@pytest.mark.parametrize("size", [0, 1, 511, 512, _MIB - 512, _MIB, _MIB + 512, 10487296])
@pytest.mark.parametrize("workers", [1, 4])
def test_zstd_returns_the_sparse_stream_of_the_disk(repository: Repository, size: int, workers: int) -> None:
    content = _random_disk(size) if size else bytearray()
    stream = store_stream(repository.store, MemorySource(content), new_stream(), workers=workers)
    meta, parts = _parsed(_unpacked(blob_path(repository, stream)))
    assert (meta["virtual-size"], meta["incremental"], meta["stream-id"]) == (size, False, stream.stream_id)
    found = bytearray()
    for kind, start, length, data in parts:
        assert start == len(found)
        found += data if kind == "data" else bytes(length)
    assert found == content


def test_blobs_do_not_depend_on_the_number_of_workers(repository: Repository) -> None:
    content = _random_disk(20 * _MIB + 512)
    new = [new_stream(disk_id=f"disk-{number}") for number in range(3)]
    streams = []
    for number, workers in enumerate((1, 3, 16)):
        sink = StreamSink(repository.store, new[number], len(content), meta_of(new[0], len(content)), level=1)
        with sink:
            copy(MemorySource(content), sink, workers=workers)
        streams.append(sink.stream)
    assert len({stream.blob for stream in streams}) == 1


def test_the_index_has_one_row_for_each_header_of_the_blob(repository: Repository) -> None:
    stream = store_stream(repository.store, MemorySource(_random_disk(10487296)), new_stream())
    _, parts = _parsed(_unpacked(blob_path(repository, stream)))
    rows = _rows(index_path(repository, stream))
    assert [(kind == "zero", start, length) for kind, start, length, _ in parts] == [
        (row.blob_offset is None, row.start, row.length) for row in rows
    ]
    assert stream.extents == len(rows)
    assert stream.data_bytes == sum(length for kind, _, length, _ in parts if kind == "data")
    assert stream.zero_bytes == sum(length for kind, _, length, _ in parts if kind == "zero")
    assert (blob_path(repository, stream).stat().st_size, index_path(repository, stream).stat().st_size) == (
        stream.stored_bytes,
        stream.index.size,
    )


@pytest.mark.parametrize("frame_size", [4096, 65536, 100_000, _MIB, 16 * _MIB])
def test_no_frame_crosses_the_grid_of_the_disk(repository: Repository, frame_size: int) -> None:
    content = random.Random(1).randbytes(3 * _MIB + 512)
    extents = ExtentMap.of([(512, 5000, False), (5513, 2 * _MIB, False), (3 * _MIB - 1, 513, False)])
    new = new_stream(parent="some-stream")
    stream = store_stream(repository.store, MemorySource(content, extents), new, frame_size=frame_size)
    rows = _rows(index_path(repository, stream))
    assert all(row.start // frame_size == (row.start + row.length - 1) // frame_size for row in rows)
    assert sum(row.length for row in rows) == extents.data_bytes


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("64k:0", "64k:0"),
        ("64k:A 64k:0 64k:A", "64k:A 64k:0 64k:A"),
        ("192k:A 64k:B", "256k:data"),
        ("1m:0 1m:0 1m:A", "2m:0 1m:data"),
        ("64k:- 512:A 64k:- 512:0", "64k:- 512:data 64k:- 512:0"),
    ],
)
def test_zero_extents_of_a_source_stay_zero(repository: Repository, text: str, stored: str) -> None:
    new = new_stream(parent="some-stream")
    stream = store_stream(repository.store, source(text), new)
    _, expected = disk(stored.replace("data", "A"))
    rows = _rows(index_path(repository, stream))
    found = ExtentMap.of((row.start, row.length, row.blob_offset is None) for row in rows)
    assert list(found.merged()) == list(expected)


def test_zero_blocks_in_data_are_stored_as_zero(repository: Repository) -> None:
    content, _ = disk("64k:A 128k:0 60k:A 8k:0 60k:A 1m:0 512:A")
    stream = store_stream(repository.store, MemorySource(content), new_stream())
    rows = _rows(index_path(repository, stream))
    zeroes = [(row.start, row.length) for row in rows if row.blob_offset is None]
    # 8 KiB of zeroes are less than a block, and the last block is not all zero.
    assert zeroes == [(65536, 131072), (size_of("320k"), _MIB)]


def test_one_byte_of_any_value_makes_a_block_data() -> None:
    # A block is compared as truth values, of which only 0 and 1 are usual.
    places = (0, 1, 63, 64, ZERO_BLOCK // 2 + 7, ZERO_BLOCK - 33, ZERO_BLOCK - 1)
    for value in range(1, 256):
        data = bytearray(3 * ZERO_BLOCK)
        data[ZERO_BLOCK + places[value % len(places)]] = value
        runs = cut(0, memoryview(data), 1 << 20)
        assert [zero for _, _, zero in runs] == [True, False, True], value


@pytest.mark.parametrize("tail", [1, 511, 512, 65535])
def test_a_partial_last_block_can_be_zero(repository: Repository, tail: int) -> None:
    stream = store_stream(repository.store, MemorySource(b"A" * 65536 + bytes(tail)), new_stream())
    assert [row.blob_offset is None for row in _rows(index_path(repository, stream))] == [False, True]
    assert stream.zero_bytes == tail


@given(
    st.integers(0, 300_000),
    st.lists(st.tuples(st.integers(1, 150_000), st.booleans()), max_size=6),
    st.sampled_from([4096, 5000, 65536, 1 << 20]),
)
def test_runs_cut_from_data_match_the_data(
    offset: int, parts: list[tuple[int, bool]], frame_size: int
) -> None:
    data = b"".join(bytes(length) if zero else b"A" * length for length, zero in parts)
    at = offset
    for start, length, zero in cut(offset, memoryview(data), frame_size):
        assert start == at
        assert length > 0
        assert start // frame_size == (start + length - 1) // frame_size
        assert zero == (not any(data[start - offset : start - offset + length]))
        at += length
    assert at == offset + len(data)


_changes = st.lists(
    st.tuples(st.sampled_from(["512", "1k", "4k", "5000", "64k", "100k", "1m"]), st.sampled_from("AB0--")),
    max_size=8,
)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_changes, min_size=1, max_size=5))
def test_every_point_of_a_chain_reads_like_the_disk_at_that_time(
    tmp_path_factory: pytest.TempPathFactory, chain: list[list[tuple[str, str]]]
) -> None:
    with Repository.create(tmp_path_factory.mktemp("chain") / "repository") as repository:
        writer = Writer(repository)
        content = bytearray()
        expected = []
        for number, changes in enumerate(chain):
            text = " ".join(f"{size}:{what if number or what != '-' else '0'}" for size, what in changes)
            content = applied(content, text)
            expected.append(bytes(content))
            writer.add(text)
        for backup, disk_then in zip(writer.backups, expected, strict=True):
            assert read_point(repository, backup, backup.streams[0]) == disk_then


def _without_pitr(image: Path, *blobs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", _EXAMPLE, image, *blobs], check=False, capture_output=True, text=True
    )


def _chain(repository: Repository) -> tuple[list[Stream], bytearray]:
    texts = (
        "64k:A 2m:B 64k:0 1m:C 512:D",
        "64k:0 512:X 3m:- 2m:0",  # grown
        "1k:Y 1m:- 64k:0 512:-",  # shrunk
        "2m:-",  # grown again: nothing comes back
    )
    writer = Writer(repository)
    content = bytearray()
    for text in texts:
        content = applied(content, text)
        writer.add(text)
    return [backup.streams[0] for backup in writer.backups], content


def test_blobs_alone_restore_with_zstd_and_fifty_lines(repository: Repository, tmp_path: Path) -> None:
    streams, content = _chain(repository)
    done = _without_pitr(tmp_path / "disk.raw", *(blob_path(repository, stream) for stream in streams))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "disk.raw").read_bytes() == content


def test_the_fifty_lines_notice_a_missing_blob_and_a_damaged_one(
    repository: Repository, tmp_path: Path
) -> None:
    streams, _ = _chain(repository)
    blobs = [blob_path(repository, stream) for stream in streams]
    missing = _without_pitr(tmp_path / "disk.raw", blobs[0], blobs[2])
    assert missing.returncode == 1
    assert "a blob is missing" in missing.stderr
    blobs[1].write_bytes(blobs[1].read_bytes()[:-5])
    damaged = _without_pitr(tmp_path / "disk.raw", *blobs)
    assert damaged.returncode != 0


def test_a_full_stream_must_not_have_gaps(repository: Repository) -> None:
    with pytest.raises(FormatError, match="leave out"):
        store_stream(repository.store, source("64k:A 64k:- 64k:A"), new_stream())
    with pytest.raises(FormatError, match="must not end"):
        store_stream(repository.store, source("64k:A 64k:-"), new_stream())
    assert stored(repository) == []


def test_a_stream_whose_index_cannot_be_written_is_removed(repository: Repository) -> None:
    new = new_stream()
    with (
        pytest.raises(RepositoryError, match="already"),
        StreamSink(repository.store, new, 512, meta_of(new, 512), level=1) as sink,
    ):
        repository.store.create(f"indexes/{new.disk_id}/{new.stream_id}.index.db", b"in the way")
        with sink.open_writer() as writer:
            writer.zero(0, 512)
            sink.append(writer.take())
        sink.flush()
    # A stream must not remove objects of another stream.
    assert stored(repository) == [f"indexes/{new.disk_id}/{new.stream_id}.index.db"]


def test_a_cancelled_stream_leaves_nothing(repository: Repository) -> None:
    new = new_stream()
    with (
        pytest.raises(KeyboardInterrupt),
        StreamSink(repository.store, new, 4096, meta_of(new, 4096), level=1) as sink,
    ):
        with sink.open_writer() as writer:
            writer.write(0, memoryview(b"A" * 4096))
            sink.append(writer.take())
        raise KeyboardInterrupt
    assert stored(repository) == []
    assert [path for path in repository.path.rglob("tmp/*/*") if path.name != "lock"] == []


def test_a_finished_stream_stays_after_a_later_failure(repository: Repository) -> None:
    new = new_stream()
    with (
        pytest.raises(KeyboardInterrupt),
        StreamSink(repository.store, new, 0, meta_of(new, 0), level=1) as sink,
    ):
        sink.flush()
        raise KeyboardInterrupt
    assert len(stored(repository)) == 2
    repository.drop_stream(new.disk_id, new.stream_id)
    assert stored(repository) == []
