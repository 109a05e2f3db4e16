# SPDX-License-Identifier: GPL-2.0-or-later
"""Compared streams hold what differs from the stored point, and each point of a mixed chain reads as the disk was."""

from __future__ import annotations

import random
import uuid
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.points.comparing import ComparingSink, open_compared
from pitr.extents import ExtentMap
from pitr.model import Backup, Record, Stream
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.stream_sink import StreamSink
from tests.support.points import (
    FIRST_POINT,
    Writer,
    applied,
    backup_of,
    blob_path,
    disk,
    flip_bit,
    meta_of,
    new_stream,
    read_point,
    store_stream,
)

pytestmark = pytest.mark.usefixtures("quick_disk")

KiB, MiB = 1 << 10, 1 << 20
CHANGES = "5000:- 300k:D 3m:- 823448:-"


def compared(
    repository: Repository, parent: Backup, source: MemorySource, *, frame_size: int = MiB, number: int = 1
) -> Backup:
    """Commit a backup of the disk `source`, compared with the point of `parent`."""
    backup_id = str(uuid.uuid4())
    new = replace(
        new_stream(backup_id=backup_id, parent=parent.streams[0].stream_id), changes="compared", reason="raw"
    )
    with (
        open_compared(repository, parent, parent.streams[0]) as point,
        StreamSink(
            repository.store, new, source.size, meta_of(new, source.size), level=1, frame_size=frame_size
        ) as sink,
    ):
        copy(source, ComparingSink(sink, point), workers=2)
    return committed(repository, parent, sink.stream, backup_id, number)


def committed(
    repository: Repository, parent: Backup | None, stream: Stream, backup_id: str, number: int
) -> Backup:
    backup = backup_of(
        [stream],
        backup_id=backup_id,
        point=FIRST_POINT + timedelta(hours=number),
        parent_id=parent.backup_id if parent else None,
    )
    repository.commit(Record(backup, None))
    return backup


def whole(content: bytes | bytearray) -> MemorySource:
    """A disk that is read whole, with no knowledge of its zeroes."""
    return MemorySource(bytearray(content), ExtentMap.of([(0, len(content), False)] if content else []))


def test_only_the_blocks_that_differ_are_stored(repository: Repository) -> None:
    writer = Writer(repository)
    first = writer.add("3m:A 1m:0 1m:B 100k:C")
    content, _ = disk("3m:A 1m:0 1m:B 100k:C")
    content[MiB + 70 * KiB] ^= 1  # a byte of one block
    content[3 * MiB + 200 * KiB] ^= 1  # in zeroes
    content[4 * MiB : 4 * MiB + 128 * KiB] = bytes(128 * KiB)  # data becomes zero
    backup = compared(repository, first, whole(content))
    (stream,) = backup.streams
    assert (stream.data_bytes, stream.zero_bytes) == (128 * KiB, 128 * KiB)
    assert read_point(repository, backup, stream) == content


def test_what_is_unchanged_is_not_stored_also_where_newer_layers_clip_frames(repository: Repository) -> None:
    writer = Writer(repository)
    writer.add("3m:A 1m:0 100k:C")
    content = applied(disk("3m:A 1m:0 100k:C")[0], CHANGES)
    last = writer.add(CHANGES)
    backup = compared(repository, last, whole(content), number=2)
    (stream,) = backup.streams
    assert (stream.data_bytes, stream.zero_bytes, stream.extents) == (0, 0, 0)
    assert read_point(repository, backup, stream) == content


@pytest.mark.parametrize("text", ["2m:A 3m:0 64k:E", "1500k:A"])
def test_a_disk_that_grew_or_shrank(repository: Repository, text: str) -> None:
    first = Writer(repository).add("2m:A 1m:B")
    content, _ = disk(text)
    backup = compared(repository, first, whole(content))
    assert read_point(repository, backup, backup.streams[0]) == content
    assert backup.streams[0].data_bytes == (64 * KiB if "E" in text else 0)


def test_a_damaged_frame_that_the_comparison_needs_is_named(repository: Repository) -> None:
    first = Writer(repository).add("1m:A")
    with repository.open_index(first, first.streams[0]) as index:
        frames = index.frames()
    position = int(frames.blob_offset[0] + frames.blob_length[0] // 2)
    flip_bit(blob_path(repository, first.streams[0]), position)
    content, _ = disk("1m:A")
    unchanged = compared(repository, first, whole(content))
    assert unchanged.streams[0].data_bytes == 0  # by digest, without its bytes
    content[5] ^= 1
    with pytest.raises(StoredDamage) as error:
        compared(repository, first, whole(content), number=2)
    assert error.value.damage.what == "frame"


_STEP = st.tuples(st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 40))


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(_STEP, min_size=1, max_size=5), frame=st.sampled_from([4 * KiB, 64 * KiB, MiB]))
def test_every_point_of_tracked_and_compared_streams_is_as_the_disk_was(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int, int]], frame: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("r")
    with ExitStack() as stack:
        repository = stack.enter_context(Repository.create(folder / "repository"))
        content = bytearray(random.Random(1).randbytes(700 * KiB)) + bytes(300 * KiB)
        points: list[tuple[Backup, bytes]] = []
        for number, (tracks, seed, grown) in enumerate([(False, 0, 20), *steps]):
            chance = random.Random(seed)
            dirty = _changed(content, chance, grown)
            parent = points[-1][0] if points else None
            if parent is None or tracks:
                new = new_stream(parent=parent.streams[0].stream_id if parent else None)
                source = whole(content) if parent is None else MemorySource(bytearray(content), dirty)
                stored = store_stream(repository.store, source, new, frame_size=frame)
                backup = committed(repository, parent, stored, new.backup_id, number)
            else:
                backup = _compared_again(repository, parent, content, chance, frame, number)
            points.append((backup, bytes(content)))
        for backup, expected in points:
            assert read_point(repository, backup, backup.streams[0]) == expected


def _changed(content: bytearray, chance: random.Random, grown: int) -> ExtentMap:
    """Change a disk and its size; return the extents that a tracker would list."""
    size = max(1, 980 * KiB + grown * 3000)
    before = len(content)
    del content[size:]
    content.extend(bytes(size - len(content)))
    dirty = bytearray(size)
    dirty[before:] = b"\1" * max(0, size - before)
    for _ in range(6):
        start = chance.randrange(size)
        length = min(size - start, chance.choice((1, 4096, 65536, 200000)))
        content[start : start + length] = chance.choice((bytes(length), chance.randbytes(length)))
        dirty[start : start + length] = b"\1" * length
    rows: list[tuple[int, int, bool]] = []
    at = 0
    while (at := dirty.find(1, at)) >= 0:
        end = dirty.find(0, at)
        end = size if end < 0 else end
        rows.append((at, end - at, not any(content[at:end])))
        at = end
    return ExtentMap.of(rows)


def _compared_again(
    repository: Repository, parent: Backup, content: bytearray, chance: random.Random, frame: int, number: int
) -> Backup:
    """Compare the disk, with zero ranges that its source knows in blocks of any size."""
    block = chance.choice((512, 4096, 65536))
    rows = [
        (at, min(block, len(content) - at), not any(content[at : at + block]) and chance.random() < 0.7)
        for at in range(0, len(content), block)
    ]
    source = MemorySource(bytearray(content), ExtentMap.of(rows))
    return compared(repository, parent, source, frame_size=frame, number=number)
