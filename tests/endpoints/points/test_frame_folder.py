# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on a local disk: a read returns exactly what was added, or nothing, whatever happened to the files."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.endpoints.points import frame_folder
from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.frame_folder import LEAST_FRAME, FrameFolder
from pitr.endpoints.points.point import open_point
from pitr.errors import UsageError
from pitr.repository import Repository
from pitr.repository.blob import digest_of
from tests.support.points import Writer, applied, disk

pytestmark = pytest.mark.usefixtures("quick_disk")

MIB = 1 << 20
#: Neither a whole number of blocks nor of pages.
LENGTH = 300_001
DATA = random.Random(1).randbytes(LENGTH)
DIGEST = digest_of(DATA)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def folder(place: Path) -> Iterator[FrameFolder]:
    with FrameFolder(place) as folder:
        yield folder


def frames(place: Path) -> dict[str, Path]:
    return {path.name: path for path in (place / "pitr-frames-1").iterdir() if len(path.name) == 64}


def frame(number: int, length: int = 2 * MIB) -> tuple[bytes, bytes]:
    data = number.to_bytes(2, "big") * (length // 2)
    return digest_of(data), data


def part(folder: FrameFolder, digest: bytes, length: int, begin: int, end: int) -> bytes:
    data = folder.part(digest, length, begin, end)
    assert data is not None
    return bytes(data)


def test_every_part_of_a_frame_is_right(folder: FrameFolder) -> None:
    assert folder.whole(DIGEST, LENGTH) is None and folder.part(DIGEST, LENGTH, 0, 1) is None
    folder.add(DIGEST, DATA)
    assert folder.has(DIGEST) and folder.whole(DIGEST, LENGTH) == DATA
    chance = random.Random(2)
    ends = [(0, 1), (0, LENGTH), (LENGTH - 1, LENGTH), (65535, 65537), (65536, 131072)]
    for _ in range(100):
        begin = chance.randrange(LENGTH)
        ends.append((begin, chance.randrange(begin + 1, LENGTH + 1)))
    for begin, end in ends:
        assert part(folder, DIGEST, LENGTH, begin, end) == DATA[begin:end]


def test_a_later_command_finds_the_frames(place: Path) -> None:
    with FrameFolder(place) as first:
        first.add(DIGEST, DATA)
    with FrameFolder(place) as second:
        assert second.used == sum(path.stat().st_size for path in frames(place).values()) > LENGTH
        assert second.whole(DIGEST, LENGTH) == DATA


def test_a_block_is_read_once_for_the_small_reads_in_it(folder: FrameFolder, place: Path) -> None:
    folder.add(DIGEST, DATA)
    assert part(folder, DIGEST, LENGTH, 70_000, 70_010) == DATA[70_000:70_010]
    (file,) = frames(place).values()
    file.write_bytes(bytes(file.stat().st_size))
    assert part(folder, DIGEST, LENGTH, 65_536, 131_072) == DATA[65_536:131_072]
    assert folder.part(DIGEST, LENGTH, 131_071, 131_073) is None


def test_a_command_that_began_earlier_adds_what_another_removed(place: Path) -> None:
    with FrameFolder(place) as one, FrameFolder(place) as two:
        one.add(DIGEST, DATA)
        two.add(DIGEST, DATA)
        for path in frames(place).values():
            path.unlink()
        for each in (one, two):
            assert each.part(DIGEST, LENGTH, 5, 10) is None and each.used == 0
        one.add(DIGEST, DATA)
        assert one.whole(DIGEST, LENGTH) == DATA


@pytest.mark.parametrize("at", [0, 70_000, LENGTH - 1, LENGTH, LENGTH + 79, LENGTH + 80, LENGTH + 111])
def test_a_changed_byte_is_never_returned(folder: FrameFolder, place: Path, at: int) -> None:
    folder.add(DIGEST, DATA)
    (path,) = frames(place).values()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    got = folder.part(DIGEST, LENGTH, min(at, LENGTH - 1), min(at, LENGTH - 1) + 1)
    assert got is None and not folder.has(DIGEST) and not frames(place)


@pytest.mark.parametrize("size", [0, 1000, LENGTH, LENGTH + 111])
def test_a_truncated_file_is_no_frame(folder: FrameFolder, place: Path, size: int) -> None:
    folder.add(DIGEST, DATA)
    (path,) = frames(place).values()
    os.truncate(path, size)
    assert folder.part(DIGEST, LENGTH, 250_000, 250_001) is None
    assert not frames(place)


def test_a_file_of_another_frame_is_not_taken(folder: FrameFolder, place: Path) -> None:
    digest, data = frame(7, LENGTH - 1)
    other, _ = frame(8, LENGTH - 1)
    folder.add(digest, data)
    folder.add(other, data)
    frames(place)[digest.hex()].replace(frames(place)[other.hex()])
    assert folder.part(other, LENGTH - 1, 0, 10) is None and folder.whole(other, LENGTH - 1) is None


def test_the_frames_that_were_not_used_make_room(place: Path) -> None:
    with FrameFolder(place, 9 * MIB) as folder:
        for number in range(4):
            folder.add(*frame(number))
        digests = [frame(number)[0] for number in range(5)]
        assert part(folder, digests[0], 2 * MIB, 0, 10) == frame(0)[1][:10]
        folder.add(*frame(4))
        assert [folder.has(digest) for digest in digests] == [True, False, True, True, True]
        assert folder.used <= 9 * MIB and len(frames(place)) == 4
    # A later command knows the order from the times of the files.
    for number, digest in enumerate(digests):
        if digest.hex() in frames(place):
            os.utime(frames(place)[digest.hex()], (number, number))
    with FrameFolder(place, 9 * MIB) as folder:
        assert folder.whole(digests[0], 2 * MIB) == frame(0)[1]
        folder.add(*frame(5))
        assert [folder.has(digest) for digest in digests] == [True, False, False, True, True]


def test_two_commands_stay_within_the_size_together(place: Path) -> None:
    with FrameFolder(place, 32 * MIB) as one, FrameFolder(place, 32 * MIB) as two:
        for number in range(40):
            (one if number % 2 else two).add(*frame(number))
    # Each looks again after an eighth.
    assert sum(path.stat().st_size for path in frames(place).values()) <= 44 * MIB


def test_small_frames_are_not_worth_a_file(folder: FrameFolder, place: Path) -> None:
    folder.add(*frame(1, LEAST_FRAME - 2))
    assert not frames(place)


def test_a_part_of_the_file_system_stays_free(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with FrameFolder(place) as folder:
        for number in range(3):
            folder.add(*frame(number))
        monkeypatch.setattr(frame_folder, "_free_bytes", lambda _: 0)
        folder.add(*frame(3))
        # One frame and its digests make no room for another one's, and two do.
        assert [folder.has(frame(number)[0]) for number in range(4)] == [False, True, True, True]
        monkeypatch.setattr(frame_folder, "_free_bytes", lambda _: -100 * MIB)
        folder.add(*frame(4))
        assert not folder.has(frame(4)[0])


def test_an_error_of_the_disk_only_stops_adding(
    folder: FrameFolder, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.add(DIGEST, DATA)
    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", lambda *_: 100)
        folder.add(*frame(1))
        folder.add(*frame(2))
    assert [record.message for record in caplog.records if "without adding" in record.message] == [
        f"cannot add to {place}/pitr-frames-1: the file system is full. pitr goes on without adding"
    ]
    assert folder.whole(DIGEST, LENGTH) == DATA and not folder.has(frame(1)[0])
    assert {path.name for path in (place / "pitr-frames-1").iterdir()} == {DIGEST.hex(), "CACHEDIR.TAG"}


def test_a_disk_that_cannot_be_asked_for_room_only_stops_adding(
    folder: FrameFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(_: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    folder.add(DIGEST, DATA)
    monkeypatch.setattr(frame_folder, "_free_bytes", lost)
    folder.add(*frame(1))
    assert "Input/output error. pitr goes on without adding" in caplog.text
    assert folder.whole(DIGEST, LENGTH) == DATA and not folder.has(frame(1)[0])


def test_what_a_killed_command_left_is_removed(place: Path) -> None:
    with FrameFolder(place):
        pass
    old, new = (place / "pitr-frames-1" / f"new-{name}" for name in "ab")
    foreign = place / "pitr-frames-1" / "notes"
    for path in (old, new, foreign):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    os.utime(foreign, (1, 1))
    with FrameFolder(place):
        assert not old.exists() and new.exists() and foreign.exists()


def test_only_a_private_folder_is_used(place: Path, tmp_path: Path) -> None:
    own = place / "pitr-frames-1"
    with FrameFolder(place):
        assert own.stat().st_mode & 0o777 == 0o700
        assert (
            (own / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")
        )
    own.chmod(0o750)
    with pytest.raises(UsageError, match="other users"):
        FrameFolder(place)
    (own / "CACHEDIR.TAG").unlink()
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(UsageError, match="Not a directory"):
        FrameFolder(place)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="file is not a folder"):
        FrameFolder(file)


def test_a_random_chain_is_read_through_the_folder(tmp_path: Path, place: Path) -> None:
    chance = random.Random(4)
    with Repository.create(tmp_path / "repository") as repository:
        writer = Writer(repository)
        text = "1m:A 1m:0 2m:B 100k:C 1m:D"
        backup, content = writer.add(text), disk(text)[0]
        text = "512k:- 64k:E 1m:- 70k:0 5k:F 1m:- 1000k:G 1593344:-"
        backup, content = writer.add(text), applied(content, text)
        for is_filled in (False, True):
            point = open_point(repository, backup, backup.streams[0])
            with (
                FrameFolder(place) as folder,
                # Only one frame has room in memory.
                FrameCache(1 << 20, folder=folder) as cache,
                CachedPoint(point, cache) as cached,
            ):
                for _ in range(300):
                    start = chance.randrange(len(content))
                    length = min(chance.choice((1, 512, 4096, 70_000, 2_000_000)), len(content) - start)
                    if chance.random() < 0.2:
                        cached.ask(start, length)
                    cached.is_ready(start, length)
                    got = b"".join(
                        bytes(count) if data is None else bytes(data)
                        for count, data in cached.read(start, length)
                    )
                    assert got == content[start : start + length]
                small = point.stored(0).frames
                (number,) = (small.frame_length < LEAST_FRAME).nonzero()[0]
                if is_filled:
                    # Only the frame that is too small for the folder came from its blob.
                    assert point.bytes_read == point.frames_read * int(small.blob_length[number]) > 0
                else:
                    # Equal frames share a file.
                    assert point.frames_read > len(frames(place)) == 7
