# SPDX-License-Identifier: GPL-2.0-or-later
"""A full that shares frames of another disk reads as the disk was, whatever both disks hold."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.points.sharing import SharingSink, open_shared
from pitr.extents import ExtentMap
from pitr.model import Backup, Kind, Record
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.stream_sink import StreamSink
from tests.support.points import (
    Writer,
    applied,
    backup_of,
    blob_path,
    disk,
    flip_bit,
    meta_of,
    new_stream,
    read_point,
)

pytestmark = pytest.mark.usefixtures("quick_disk")

KiB, MiB = 1 << 10, 1 << 20
OTHER_DISK = "0f0f0f0f-0000-4000-8000-00000000000d"


def shared(repository: Repository, sibling: Backup, content: bytes | bytearray) -> Backup:
    """Commit a full of another disk with this content, which shares frames of the sibling's."""
    new = replace(new_stream(backup_id=str(uuid.uuid4())), disk_id=OTHER_DISK)
    source = MemorySource(bytearray(content), ExtentMap.of([(0, len(content), False)] if content else []))
    meta = meta_of(new, source.size)
    with (
        open_shared(repository, sibling, sibling.streams[0]) as other,
        StreamSink(repository.store, new, source.size, meta, level=1, of_parts=True) as sink,
    ):
        copy(source, SharingSink(sink, other), workers=2)
    backup = backup_of([sink.stream], backup_id=new.backup_id)
    repository.commit(Record(backup, None))
    return backup


def test_whole_frames_and_equal_blocks_are_shared(repository: Repository) -> None:
    sibling = Writer(repository).add("3m:A 1m:0 1m:B")
    content, _ = disk("3m:A 1m:0 1m:B")
    content[MiB + 70 * KiB] ^= 1  # in one block
    content[3 * MiB + 200 * KiB] = 7  # in zeroes
    backup = shared(repository, sibling, content)
    (stream,) = backup.streams
    own, other = stream.parts
    assert (stream.kind, own.stream_id, own.live_bytes) == (Kind.FULL, stream.stream_id, 128 * KiB)
    assert (other.stream_id, other.live_bytes) == (sibling.streams[0].stream_id, 4 * MiB - 64 * KiB)
    assert stream.index_copy == stream.index
    assert read_point(repository, backup, stream) == content


def test_frames_that_newer_changes_of_the_sibling_clip_are_shared(repository: Repository) -> None:
    writer = Writer(repository)
    writer.add("3m:A")
    changes = "300k:- 200k:D 1m:-"
    sibling = writer.add(changes)
    content = applied(disk("3m:A")[0], changes)
    backup = shared(repository, sibling, content)
    (stream,) = backup.streams
    # Shorter pieces than a block are not worth a row.
    assert stream.parts[0].live_bytes < 64 * KiB and len(stream.parts) == 3
    assert read_point(repository, backup, stream) == content


def test_a_damaged_frame_that_the_comparison_needs_is_named(repository: Repository) -> None:
    sibling = Writer(repository).add("1m:A")
    with repository.open_index(sibling, sibling.streams[0]) as index:
        frames = index.frames()
    flip_bit(
        blob_path(repository, sibling.streams[0]), int(frames.blob_offset[0] + frames.blob_length[0] // 2)
    )
    content, _ = disk("1m:A")
    content[5] ^= 1
    with pytest.raises(StoredDamage) as error:
        shared(repository, sibling, content)
    assert error.value.damage.stream_id == sibling.streams[0].stream_id


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 1100 * KiB), changes=st.integers(0, 12))
def test_every_shared_full_reads_as_the_disk_was(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, changes: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("r")
    chance = random.Random(seed)
    with Repository.create(folder / "repository") as repository:
        writer = Writer(repository)
        writer.add("500k:A 200k:0 340k:B")
        text = f"{chance.randrange(300)}k:- {chance.randrange(1, 90)}k:C 64k:0 1k:D"
        sibling = writer.add(text)
        content = applied(disk("500k:A 200k:0 340k:B")[0], text)
        del content[size:]
        content.extend(bytes(size - len(content)))
        for _ in range(changes):
            start = chance.randrange(size)
            length = min(size - start, chance.choice((1, 512, 4096, 65536, 200000)))
            content[start : start + length] = chance.choice((bytes(length), chance.randbytes(length)))
        backup = shared(repository, sibling, content)
        assert read_point(repository, backup, backup.streams[0]) == content
