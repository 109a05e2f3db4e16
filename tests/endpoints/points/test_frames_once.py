# SPDX-License-Identifier: GPL-2.0-or-later
"""A restore of a long chain decompresses each frame once, for all pieces of it that are live."""

from __future__ import annotations

import random
import sqlite3

import pytest

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.points.point import open_point
from pitr.jobs.consolidate.one_point import consolidate
from pitr.model import Backup
from pitr.repository import Repository, names
from pitr.repository.blob import Decompressor
from tests.support.points import Writer, applied

pytestmark = pytest.mark.usefixtures("quick_disk")
GRAIN = 1 << 16
FRAME = 1 << 20
#: The disk spans two windows of the copier.
GRAINS = 12 * 16


def test_each_frame_is_decompressed_once_however_many_pieces_of_it_are_live(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(6)
    writer = Writer(repository)
    writer.add(f"{GRAINS * 64}k:a", full=True, frame_size=FRAME)
    disk = bytearray(b"a" * (GRAINS * GRAIN))
    written_by = [0] * GRAINS
    for night in range(1, 100):
        # These cut the frames of the full into many pieces.
        grain = chance.randrange(1, GRAINS // 2) * 2
        text = f"{grain * 64}k:- 64k:{chr(98 + night % 25)} {(GRAINS - grain - 1) * 64}k:-"
        writer.add(text, frame_size=FRAME)
        disk = applied(disk, text)
        written_by[grain] = night
    per_frame = FRAME // GRAIN
    of_full = {grain // per_frame for grain in range(GRAINS) if not written_by[grain]}
    pieces = sum(not written_by[grain] and bool(written_by[grain - 1]) for grain in range(1, GRAINS))
    frames = len(of_full) + sum(night > 0 for night in written_by)
    assert len(of_full) == 12 and pieces > 3 * len(of_full)

    newest = repository.catalog.points()[0]
    assert len(repository.chain(newest, newest.streams[0])) == 100
    assert decompressed(repository, newest, bytes(disk), monkeypatch) == frames
    (virtual,) = consolidate(repository, newest).created
    assert distinct_frames(repository, virtual) == frames
    assert decompressed(repository, virtual, bytes(disk), monkeypatch) == frames


def decompressed(
    repository: Repository, backup: Backup, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Restore the disk of a point with several workers, and return how many frames were decompressed for that."""
    calls: list[int] = []
    decompress = Decompressor.decompress

    def counting(self: Decompressor, frame: bytes, length: int) -> bytes:
        calls.append(length)
        return decompress(self, frame, length)

    with open_point(repository, backup, backup.streams[0]) as source, monkeypatch.context() as patch:
        patch.setattr(Decompressor, "decompress", counting)
        sink = MemorySink(source.size)
        copy(source, sink)
        assert source.needed().frames == source.frames_read == len(calls)
    assert sink.content == expected
    return len(calls)


def distinct_frames(repository: Repository, backup: Backup) -> int:
    """Count the frames that the index of a virtual full names."""
    [stream] = backup.streams
    connection = sqlite3.connect(repository.path / names.index(stream.disk_id, stream.stream_id))
    query = "SELECT count(*) FROM (SELECT DISTINCT part, blob_offset FROM extent WHERE part IS NOT NULL)"
    (count,) = connection.execute(query).fetchone()
    connection.close()
    return int(count)
