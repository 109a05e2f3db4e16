# SPDX-License-Identifier: GPL-2.0-or-later
"""Differences that are sent into existing disks, with trouble on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pitr.endpoints.images.memory import MemoryReader, MemorySource
from pitr.errors import DiskUnfinished, ImageioError, UsageError
from pitr.extents import ExtentMap
from pitr.lab import Lab
from pitr.lab.lab import LabDisk
from pitr.ovirt.differences import Sent, disk_checksum, send_difference, upload_checksum
from pitr.ovirt.engine import Engine, load_config, start_in_place, start_upload
from pitr.ovirt.imageio.checksum import checksum
from tests.support.sdk_client import content_of

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def engine(lab: Lab) -> Iterator[Engine]:
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05, retry_pause_s=0.01) as engine:
        yield engine


@pytest.fixture
def disk(lab: Lab, tmp_path: Path) -> LabDisk:
    old = tmp_path / "old"
    old.write_bytes(b"o" * SIZE)
    return lab.add_vm("inplace").add_disk("system", SIZE, content=old)


def awake(_seconds: float) -> None:
    """Retry at once."""


class Troubled(MemorySource):
    """Calls each function of `troubles` before a read, from the second one on."""

    def __init__(self, content: bytes, extents: ExtentMap, *troubles: Callable[[], object]) -> None:
        super().__init__(content, extents)
        self._troubles = list(troubles)
        self._reads = 0

    def open_reader(self) -> MemoryReader:
        source = self

        class Reader(MemoryReader):
            def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
                source._reads += 1
                if source._reads > 1 and source._troubles:
                    source._troubles.pop(0)()
                super().read_ranges(ranges, buffer)

        return Reader(self._content)


#: Unaligned and aligned ranges of data and of zeroes.
RANGES = [
    (0, 64 * KIB, False),
    (64 * KIB, 64 * KIB, True),
    (MIB, 512, False),
    (MIB + 512, 1024, True),
    (2 * MIB, 300 * KIB, False),
    (4 * MIB - 64 * KIB, 64 * KIB, True),
]
WRITTEN = sum(length for _, length, zero in RANGES if not zero)
ZEROED = sum(length for _, length, zero in RANGES if zero)


def wanted() -> tuple[bytes, bytes]:
    """The content of the source, which holds rubbish outside its ranges, and what the disk has to be."""
    content = random.Random(1).randbytes(SIZE)
    expected = bytearray(b"o" * SIZE)
    for start, length, zero in RANGES:
        expected[start : start + length] = bytes(length) if zero else content[start : start + length]
    return content, bytes(expected)


def test_only_the_ranges_are_sent_and_the_checksum_of_the_server_proves_the_disk(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path
) -> None:
    content, expected = wanted()
    seen: list[tuple[int, int]] = []
    with start_in_place(engine, disk.id) as upload:
        source = MemorySource(content, ExtentMap.of(RANGES))
        sent = send_difference(
            engine, source, upload, part_bytes=100 * KIB, progress=lambda *now: seen.append(now)
        )
    assert sent == Sent(WRITTEN, ZEROED)
    assert seen[-1] == (WRITTEN + ZEROED, WRITTEN + ZEROED) and seen == sorted(seen)
    assert lab.transferred(disk.id) == WRITTEN + ZEROED
    assert content_of(disk, tmp_path) == expected
    assert disk_checksum(engine, disk.id).checksum == checksum(MemorySource(expected))


def test_the_checksum_of_an_open_upload_survives_a_lost_ticket(
    lab: Lab, engine: Engine, disk: LabDisk
) -> None:
    with start_in_place(engine, disk.id) as upload:
        lab.host.restart_daemon()
        found = upload_checksum(engine, upload, sleep=awake)
    assert (found.size, found.checksum) == (SIZE, checksum(MemorySource(b"o" * SIZE)))


def test_no_difference_sends_nothing(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    with start_in_place(engine, disk.id) as upload:
        assert send_difference(engine, MemorySource(b"", ExtentMap.of([])), upload) == Sent(0, 0)
    assert lab.transferred(disk.id) == 0


def test_a_lost_ticket_and_a_pause_of_the_engine_do_not_stop_it(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path
) -> None:
    content, expected = wanted()
    told: list[str] = []
    with start_in_place(engine, disk.id) as upload:
        source = Troubled(
            content,
            ExtentMap.of(RANGES),
            lab.host.restart_daemon,
            lambda: lab.engine.pause_transfers(disk.id),
        )
        sent = send_difference(
            engine, source, upload, workers=1, part_bytes=64 * KIB, notify=told.append, sleep=awake
        )
    assert content_of(disk, tmp_path) == expected
    assert 1 <= len(told) <= 2 and all("resuming the upload" in line for line in told)
    assert sent.written >= WRITTEN and sent.zeroed >= ZEROED


def test_trouble_that_stays_ends_it_and_the_disk_is_said_to_be_unfinished(
    lab: Lab, engine: Engine, disk: LabDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pitr.ovirt.differences._MOST_REVIVALS", 1)
    content, expected = wanted()
    with pytest.raises(DiskUnfinished, match="is unfinished"), start_in_place(engine, disk.id) as upload:
        source = Troubled(content, ExtentMap.of(RANGES), *[lab.host.restart_daemon] * 100)
        send_difference(engine, source, upload, workers=1, part_bytes=64 * KIB, sleep=awake)
    left = upload.open_transfer_id
    assert left is not None and disk.status == "locked"
    with start_in_place(engine, disk.id, left=left) as upload:
        send_difference(engine, MemorySource(content, ExtentMap.of(RANGES)), upload)
    assert content_of(disk, tmp_path) == expected


def test_a_range_beyond_the_disk_is_not_tried_again(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    source = MemorySource(bytes(2 * SIZE), ExtentMap.of([(SIZE + MIB, 512, False)]))
    told: list[str] = []
    with pytest.raises(DiskUnfinished), start_in_place(engine, disk.id) as upload:
        send_difference(engine, source, upload, notify=told.append, sleep=awake)
    assert told == []
    with start_in_place(engine, disk.id, left=upload.id):
        pass


def test_an_error_of_the_source_is_raised_as_it_is(lab: Lab, engine: Engine, disk: LabDisk) -> None:
    def fail() -> None:
        raise UsageError("cannot read the point")

    source = Troubled(bytes(SIZE), ExtentMap.of(RANGES), fail)
    unfinished = pytest.raises(DiskUnfinished, match="cannot read the point")
    with unfinished, start_in_place(engine, disk.id) as upload:
        send_difference(engine, source, upload, workers=1, part_bytes=64 * KIB, sleep=awake)
    with start_in_place(engine, disk.id, left=upload.id):
        pass


def test_an_upload_that_would_remove_its_disk_is_not_revived(lab: Lab, engine: Engine) -> None:
    copy = lab.add_disk("copy", SIZE)
    source = Troubled(bytes(SIZE), ExtentMap.of(RANGES), lab.host.restart_daemon)
    with pytest.raises(ImageioError), start_upload(engine, copy.id) as upload:
        send_difference(engine, source, upload, workers=1, part_bytes=64 * KIB, sleep=awake)
    assert copy.id not in {each.id for each in lab.disks}
