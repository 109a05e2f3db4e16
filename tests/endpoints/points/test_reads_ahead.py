# SPDX-License-Identifier: GPL-2.0-or-later
"""A point in a bucket: eight requests are under way at once, whatever the disk looks like, and none after the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.points.point import open_point
from pitr.errors import RepositoryError
from pitr.model import Backup, Stream
from pitr.repository import Repository, names
from pitr.repository.damage import StoredDamage
from pitr.repository.store import StoredFile
from tests.support.points import Writer, applied, disk, flip_bit, read_point

PATIENCE_S = 60
#: One frame of 64 KiB in each of twelve windows.
WINDOWS = " ".join(["64k:A 8128k:0"] * 12)
#: A window of which ten streams hold a part.
LAYERS = ["640k:A", *(" ".join(["64k:-"] * at + ["64k:B"] + ["64k:-"] * (9 - at)) for at in range(1, 10))]


class FarBlobs:
    """Lets the reads of blobs wait until `together` of them are under way, as if each were a request."""

    def __init__(self, together: int) -> None:
        self.together = together
        self.reads = 0
        self.most = 0
        self.fails_at: int | None = None
        self._under_way = 0
        self._enough = threading.Event()
        self._lock = threading.Lock()

    def read(self, file: StoredFile, offset: int, length: int) -> bytes:
        with self._lock:
            self.reads += 1
            number = self.reads
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            if self._under_way == self.together:
                self._enough.set()
        try:
            if not self._enough.wait(PATIENCE_S):
                raise AssertionError(f"{self.most} reads were under way at once")
            if number == self.fails_at:
                raise RepositoryError("the bucket does not answer")
            return file.read_at(offset, length)
        finally:
            with self._lock:
                self._under_way -= 1


class _FarFile:
    gap = 256 << 10

    def __init__(self, file: StoredFile, far: FarBlobs) -> None:
        self._file = file
        self._far = far
        self.size = file.size
        self.close = file.close

    def read_at(self, offset: int, length: int) -> bytes:
        return self._far.read(self._file, offset, length)

    def __enter__(self) -> _FarFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[FarBlobs]:
    blobs = FarBlobs(8)
    real = Repository.open_blob

    def opened(repository: Repository, backup: Backup, stream: Stream) -> Any:
        return _FarFile(real(repository, backup, stream), blobs)

    monkeypatch.setattr(Repository, "open_blob", opened)
    yield blobs
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy-")]


def test_workers_read_the_windows_after_those_that_they_write(repository: Repository, far: FarBlobs) -> None:
    backup = Writer(repository).add(WINDOWS)
    assert read_point(repository, backup, backup.streams[0], workers=4) == disk(WINDOWS)[0]
    assert far.most == 8 and far.reads == 12


def test_one_worker_reads_many_streams_of_one_window_at_once(repository: Repository, far: FarBlobs) -> None:
    writer = Writer(repository)
    content = bytearray()
    for text in LAYERS:
        backup = writer.add(text)
        content = applied(content, text)
    assert read_point(repository, backup, backup.streams[0], workers=1) == content
    assert far.most == 8 and far.reads == 10


@pytest.mark.parametrize("fails_at", [1, 8, 9])
def test_a_read_that_fails_ends_the_restore(repository: Repository, far: FarBlobs, fails_at: int) -> None:
    far.fails_at = fails_at
    backup = Writer(repository).add(WINDOWS)
    with pytest.raises(RepositoryError, match="does not answer"):
        read_point(repository, backup, backup.streams[0], workers=4)


def test_damage_is_found_in_what_was_read_ahead(repository: Repository, far: FarBlobs) -> None:
    backup = Writer(repository).add(WINDOWS)
    stream = backup.streams[0]
    path = repository.path / names.blob(stream.disk_id, stream.stream_id)
    with open_point(repository, backup, stream) as point:
        frames = point.stored(0).frames
        flip_bit(path, int(frames.blob_offset[10]) + int(frames.blob_length[10]) // 2)
    with open_point(repository, backup, stream) as point:
        sink = MemorySink(point.size)
        with pytest.raises(StoredDamage):
            copy(point, sink, workers=4)
