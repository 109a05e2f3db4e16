# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr export`: points and differences, read by independent readers."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.points.point import open_point
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.independent import apply_rbd, apply_sparse, read_only, run, unzstd
from tests.support.pitr import Pitr
from tests.support.points import Writer, blob_path, flip_bit, written

KiB = 1 << 10
#: A full backup, incrementals with data, zeroes, unchanged ranges, growth and a shrink, and another full backup.
STORY = (
    ("1m:A 64k:0 1m:B 512:C", False),
    ("64k:- 64k:X 128k:0 1m:- 512:D", False),
    ("1m:- 64k:Y 1m:- 512:- 100k:0 4k:Z", False),
    ("64k:0 1m:- 4k:-", False),
    ("1m:A 64k:X 4k:0 2m:A", True),
    ("3m:- 4k:-", False),
)


@pytest.fixture
def story(repository: Repository) -> list[Backup]:
    return written(repository, STORY)


def content(repository: Repository, backup: Backup) -> bytearray:
    with open_point(repository, backup, backup.streams[0]) as point:
        sink = MemorySink(point.size)
        copy(point, sink)
    return sink.content


def test_a_point_comes_as_zstd_frames_of_a_sparse_stream(
    repository: Repository, command: Pitr, story: list[Backup]
) -> None:
    for backup in story[::2]:
        done = run(command, "export", "--point", backup.backup_id, "--output", "json")
        disk = bytearray()
        meta, extents = apply_sparse(unzstd(done.stdout), disk)
        assert disk == content(repository, backup)
        assert meta["incremental"] is False
        assert sum(length for _, _, length in extents) == meta["virtual-size"] == len(disk)
        assert meta["data-size"] >= sum(length for kind, _, length in extents if kind == "data")
        told = json.loads(done.stderr.splitlines()[-1])["export"]
        assert told["backup_id"] == backup.backup_id and told["size"] == len(disk)
        assert told["data_bytes"] + told["zero_bytes"] == told["size"] and told["unchanged_bytes"] == 0


@pytest.mark.parametrize("how", ["sparse", "rbd-diff", "rbd-diff-v2"])
def test_the_difference_of_any_two_points_makes_one_of_the_other(
    repository: Repository, command: Pitr, story: list[Backup], how: str, tmp_path: Path
) -> None:
    contents = {backup.backup_id: content(repository, backup) for backup in story}
    pairs = list(itertools.product(story, story))
    if how != "sparse":
        pairs = [*itertools.pairwise(story), *itertools.pairwise(story[::-1])]
    for number, (old, new) in enumerate(pairs):
        path = tmp_path / f"{number}.diff"
        command(
            *("export", "--point", new.backup_id, "--since", old.backup_id),
            *("--format", how, "--compress", "none", "--to", path),
        )
        disk = bytearray(contents[old.backup_id])
        if how == "sparse":
            meta, _ = apply_sparse(path.read_bytes(), disk)
            assert meta["incremental"] is True and meta["since-backup-id"] == old.backup_id
        else:
            named = apply_rbd(path.read_bytes(), disk)
            assert named == {"f": old.backup_id, "t": new.backup_id, "s": len(contents[new.backup_id])}
        assert disk == contents[new.backup_id], (STORY[story.index(old)], STORY[story.index(new)])


def test_what_is_the_same_on_both_sides_is_not_in_the_difference(command: Pitr, story: list[Backup]) -> None:
    done = run(command, "export", "--point", story[5].backup_id, "--since", story[4].backup_id)
    meta, extents = apply_sparse(unzstd(done.stdout), bytearray())
    assert extents == [] and meta["incremental"] is True
    # A new full backup of the same content has other frames with the same digests.
    done = run(command, "export", "--point", story[4].backup_id, "--since", story[2].backup_id)
    _, extents = apply_sparse(unzstd(done.stdout), bytearray(4 << 20))
    assert min(start for _, start, _ in extents) >= 64 * KiB


def test_a_whole_point_as_rbd_diff_needs_no_snapshot(
    repository: Repository, command: Pitr, story: list[Backup]
) -> None:
    for how in ("rbd-diff", "rbd-diff-v2"):
        packed = run(
            command, "export", "--point", story[2].backup_id, "--format", how, "--compress", "zstd"
        ).stdout
        disk = bytearray()
        assert set(apply_rbd(unzstd(packed), disk)) == {"t", "s"}
        assert disk == content(repository, story[2])


def test_raw_is_a_sparse_file(repository: Repository, command: Pitr, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A 512m:0 4k:B")
    path = tmp_path / "disk.raw"
    command("export", "--at", "now", "--format", "raw", "--to", path)
    assert path.stat().st_size == backup.streams[0].size
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read(64 * KiB) == b"A" * 64 * KiB
        file.seek(-4 * KiB, os.SEEK_END)
        assert file.read() == b"B" * 4 * KiB


def test_raw_goes_through_a_pipe_with_all_its_zeroes(
    repository: Repository, command: Pitr, story: list[Backup], tmp_path: Path
) -> None:
    for backup in story:
        expected = content(repository, backup)
        plain = ("export", "--point", backup.backup_id, "--format", "raw")
        done = run(command, *plain, "--output", "json")
        assert done.stdout == expected
        told = json.loads(done.stderr.splitlines()[-1])["export"]
        assert told["data_bytes"] + told["zero_bytes"] == len(expected) and told["unchanged_bytes"] == 0
        packed = run(command, *plain, "--compress", "zstd").stdout
        assert unzstd(packed) == expected and len(packed) < len(expected)
    command(*plain, "--compress", "zstd", "--to", tmp_path / "disk.raw.zst")
    assert unzstd((tmp_path / "disk.raw.zst").read_bytes()) == expected


def test_random_chains_differ_by_what_their_differences_say(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    chance = random.Random(11)
    writer = Writer(repository)
    contents: list[bytearray] = []
    for number in range(8):
        size = chance.randrange(1, 64) * 16
        kinds = "AB0" if number % 4 == 0 else "AB0---"
        text = " ".join(f"16k:{chance.choice(kinds)}" for _ in range(size // 16 + 1))
        backup = writer.add(text, full=number % 4 == 0, frame_size=64 * KiB)
        contents.append(content(repository, backup))
    for _ in range(20):
        old, new = chance.randrange(8), chance.randrange(8)
        path = tmp_path / "difference"
        command(
            *("export", "--point", writer.backups[new].backup_id, "--since", writer.backups[old].backup_id),
            *("--compress", "none", "--to", path),
        )
        disk = bytearray(contents[old])
        apply_sparse(path.read_bytes(), disk)
        assert disk == contents[new]
        path.unlink()


def test_damage_gives_no_whole_stream_and_no_file(
    repository: Repository, command: Pitr, tmp_path: Path
) -> None:
    backup = Writer(repository).add("64k:A 3m:B")
    path = blob_path(repository, backup.streams[0])
    # The frames before the damaged one may be written already.
    flip_bit(path, path.stat().st_size - 200)
    done = run(command, "export", "--at", "now", "--compress", "none", code=3)
    assert b"stop" not in done.stdout[-40:]
    # A raw stream has no end mark: only its length and the exit code show that it is incomplete.
    done = run(command, "export", "--at", "now", "--format", "raw", code=3)
    assert len(done.stdout) < backup.streams[0].size
    for how in ("sparse", "rbd-diff", "raw"):
        command("export", "--at", "now", "--format", how, "--to", tmp_path / "out", code=3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["repository"]


def test_a_reader_that_goes_away_is_a_failure(repository: Repository, command: Pitr) -> None:
    backup = Writer(repository).add("64k:A 900k:B")
    for read in (0, 1, 5000):
        read_only(read, command, "export", "--point", backup.backup_id, "--compress", "none")


def test_wrong_options_are_refused(command: Pitr, story: list[Backup], tmp_path: Path) -> None:
    point = story[0].backup_id
    for arguments, code in (
        (("--point", point, "--at", "now"), 2),
        ((), 2),
        (("--at", "now", "--format", "vhd"), 2),
        (("--at", "now", "--compress", "lz4"), 2),
        (("--at", "now", "--format", "raw", "--to", "-", "--compress", "lz4"), 2),
        (("--at", "now", "--format", "raw", "--since", point), 2),
        (("--at", "now", "--disk", "nosuch"), 4),
        (("--at", "now", "--since", "ffffffff"), 4),
        (("--at", "2020-01-01"), 4),
    ):
        command("export", *arguments, code=code)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    command("export", "--at", "now", "--to", taken, code=2)
    assert taken.read_text() == "mine"
