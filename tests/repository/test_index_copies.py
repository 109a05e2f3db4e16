# SPDX-License-Identifier: GPL-2.0-or-later
"""The index of a stream of parts is stored twice: what happens to one copy loses nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pitr.jobs.consolidate.one_point import consolidate
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import Writer, applied, flip_bit
from tests.support.second_reader import Folder

K = 1 << 10
STORY = ("64k:A 64k:B 64k:C 64k:0", "16k:- 8k:X 40k:- 64k:0 128k:-", "200k:- 4k:Y 52k:-")


@pytest.fixture
def points(repository: Repository) -> dict[str, bytes]:
    """Three points; the middle one is consolidated. What the disk had at each, oldest first."""
    writer, content, found = Writer(repository), bytearray(), {}
    for text in STORY:
        backup = writer.add(text, frame_size=64 * K)
        content = applied(content, text)
        found[backup.backup_id] = bytes(content)
    (new,) = consolidate(repository, writer.backups[1]).created
    first, middle, last = found.values()
    return {
        writer.backups[0].backup_id: first,
        new.backup_id: middle,
        writer.backups[2].backup_id: last,
    }


def copies(repository: Repository, backup: Backup) -> list[Path]:
    stream = backup.streams[0]
    return [
        repository.path / f"indexes/{stream.disk_id}/{stream.stream_id}.{kind}.db"
        for kind in ("index", "copy")
    ]


def virtual(repository: Repository) -> Backup:
    return next(backup for backup in repository.catalog.points() if backup.stands_for is not None)


def harm(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "corrupt":
        flip_bit(path, path.stat().st_size // 2)
    else:
        path.write_bytes(path.read_bytes()[:-4096] if how == "truncated" else b"junk")


def restored(command: Pitr, points: dict[str, bytes], folder: Path) -> None:
    for backup_id, content in points.items():
        image = folder / f"{backup_id}.raw"
        command("restore", "--point", backup_id, "--to-file", image)
        assert image.read_bytes() == content
        image.unlink()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["missing", "corrupt", "truncated", "junk"])
def test_every_point_is_restored_and_verify_tells_what_repairs_the_other_copy(
    repository: Repository, command: Pitr, points: dict[str, bytes], tmp_path: Path, which: int, how: str
) -> None:
    backup = virtual(repository)
    harm(copies(repository, backup)[which], how)
    restored(command, points, tmp_path)
    assert {each: Folder(repository.path).disks(each) for each in points} == {
        each: {backup.streams[0].disk_id: content} for each, content in points.items()
    }
    for level in ([], ["--quick"]):
        found = command.json("verify", *level, code=3)
        ((what, kind, lost, message),) = [
            (each["what"], each["kind"], each["points_lost"], each["message"]) for each in found["damage"]
        ]
        assert (what, lost) == ("index", [])
        assert kind == {"junk": "truncated"}.get(how, how)
    # The next backup can be based on it, and nothing says that a point is damaged.
    assert not any(point["damaged"] for point in command.json("list")["points"])
    # Do what it says.
    advised = re.search(r"To repair it, copy (\S+) to (\S+) in the repository", message)
    assert advised is not None
    shutil.copyfile(repository.path / advised[1], repository.path / advised[2])
    assert command.json("verify")["ok"]
    Folder(repository.path).check()


def test_without_both_copies_the_points_that_need_it_are_lost_and_named(
    repository: Repository, command: Pitr, points: dict[str, bytes], tmp_path: Path
) -> None:
    first, middle, last = points
    for path in copies(repository, virtual(repository)):
        harm(path, "corrupt")
    found = command.json("verify", code=3)
    assert [(each["what"], set(each["points_lost"])) for each in found["damage"]] == [
        ("index", {middle, last})
    ]
    listed = {point["backup_id"]: point["damaged"] for point in command.json("list")["points"]}
    assert listed == {first: False, middle: True, last: True}
    image = tmp_path / "disk.raw"
    for backup_id in (middle, last):
        result = command("restore", "--point", backup_id, "--to-file", image, code=3)
        assert "index" in result.complaint and not image.exists()
    command("restore", "--point", first, "--to-file", image)
    assert image.read_bytes() == points[first]
