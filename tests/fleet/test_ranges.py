# SPDX-License-Identifier: GPL-2.0-or-later
"""One disk on several workers: each does ranges of it, and the documents are those of one machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.restore import one_range
from pitr.jobs.verify import big_blobs
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.fleet import TestFleet, fleet_of
from tests.support.pitr import Pitr
from tests.support.points import blob_path, flip_bit, written

_DISK = "4m:A 12m:0 8m:B 5m:0 9m:C 64k:D 7m:E 64k:0"
_CHANGED = "1m:- 64k:0 18m:F 20m:- 2m:G 4m:- 128k:0"


@pytest.fixture
def backups(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> list[Backup]:
    monkeypatch.setattr(big_blobs, "SMALLEST", 3000)
    monkeypatch.setattr(one_range, "SMALLEST", 4 << 20)
    return written(repository, [(_DISK, True), (_CHANGED, False)])


@pytest.fixture
def fleet(command: Pitr) -> Iterator[TestFleet]:
    with fleet_of(command) as fleet:
        fleet.scheduler()
        fleet.worker("--slots", "2")
        yield fleet


def timeless(document: Any) -> Any:
    """The document of a drill or a restore without what is different each time."""
    for disk in document["disks"]:
        disk.pop("duration_s", None)
    document.pop("duration_s", None)
    document.pop("time", None)
    return document


def test_several_tasks_do_ranges_of_one_disk_and_find_its_damage(
    repository: Repository, command: Pitr, backups: list[Backup], fleet: TestFleet, tmp_path: Path
) -> None:
    there = ("--scheduler", fleet.address)
    assert command.json("verify", *there) == command.json("verify")
    alone = timeless(command.json("drill", "web", "--digests-only")["drill"])
    assert timeless(command.json("drill", "web", "--digests-only", *there)["drill"]) == alone and alone["ok"]
    one, two = tmp_path / "one.raw", tmp_path / "two.raw"
    asked = ("restore", "web", "--at", "now", "--to-file")
    expected = command.json(*asked, one)["disks"]
    done = command.json(*asked, two, "--verify", *there)["disks"]
    assert two.read_bytes() == one.read_bytes()
    assert two.stat().st_blocks < two.stat().st_size // 512
    for number in ("bytes_written", "bytes_zeroed", "bytes_skipped", "frames_read", "bytes_read", "streams"):
        assert done[0][number] == expected[0][number]

    # Damage in a frame that a later range reads.
    full = backups[0]
    with repository.open_index(full, full.streams[0]) as index:
        last_frame = int(index.frames().blob_offset[-1])
    flip_bit(blob_path(repository, full.streams[0]), last_frame + 8)
    copy = repository.path.with_name("copy")
    shutil.copytree(repository.path, copy)
    there_copied = command.with_environment(PITR_REPO=str(copy))
    damage = command.json("verify", *there, code=3)
    assert damage == there_copied.json("verify", code=3) and damage["damage"]
    lost = command("restore", "--point", backups[1].backup_id, "--to-file", tmp_path / "new/", *there, code=3)
    assert "frame of disk disk0" in lost.complaint and not (tmp_path / "new").exists()
    drilled = command.json("drill", "web", "--digests-only", *there, code=3)["drill"]
    assert drilled["disks"] == there_copied.json("drill", "web", "--digests-only", code=3)["drill"]["disks"]
