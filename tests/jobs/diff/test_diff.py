# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr diff`, against disks that are kept as bytes."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.endpoints.points.exact_difference import BLOCK
from pitr.extents import BoolArray
from pitr.jobs.diff.two_points import DiskDiff, choose, diff
from pitr.model import Backup, Record, VMName
from pitr.repository import Repository
from tests.support.pitr import Pitr
from tests.support.points import (
    FIRST_POINT,
    VM,
    Writer,
    applied,
    backup_of,
    blob_path,
    disk_id,
    fake_stream,
    flip_bit,
    index_path,
    record_path,
    written,
)

KiB = 1 << 10
FRAME = 4096


@st.composite
def _steps(draw: st.DrawFn, unit: int) -> list[tuple[str, bool]]:
    """Backups as text: a full, then fulls and incrementals, each with a size of its own."""
    steps = []
    for number in range(draw(st.integers(2, 4))):
        full = number == 0 or draw(st.integers(0, 3)) == 0
        kinds = "AB0" if full else "AB0-"
        parts = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(kinds)), min_size=1, max_size=6))
        steps.append((" ".join(f"{length * unit}:{kind}" for length, kind in parts), full))
    return steps


def _written(repository: Repository, steps: list[tuple[str, bool]]) -> tuple[list[Backup], list[bytes]]:
    writer = Writer(repository)
    contents: list[bytes] = []
    for text, full in steps:
        writer.add(text, full=full, frame_size=FRAME)
        contents.append(bytes(applied(b"" if full else contents[-1], text)))
    return writer.backups, contents


def _different(before: bytes, after: bytes) -> BoolArray:
    """Which bytes are others; what lies beyond an end reads as zero."""
    padded = before[: len(after)].ljust(len(after), b"\0")
    return np.not_equal(np.frombuffer(padded, np.uint8), np.frombuffer(after, np.uint8))


def _told(found: DiskDiff, size: int) -> BoolArray:
    told = np.zeros(size, np.bool_)
    for start, length, _ in found.changes:
        assert not told[start : start + length].any(), "told twice"
        told[start : start + length] = True
    return told


def _blocks(different: BoolArray) -> BoolArray:
    """The whole blocks that have a different byte."""
    told = np.zeros(len(different), np.bool_)
    for start in range(0, len(different), BLOCK):
        told[start : start + BLOCK] = different[start : start + BLOCK].any()
    return told


@settings(max_examples=25, deadline=None)
@given(_steps(FRAME))
def test_whole_frames_that_are_the_same_are_no_difference(steps: list[tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Repository.create(Path(folder) / "r") as repository:
        backups, contents = _written(repository, steps)
        for (old, before), (new, after) in itertools.combinations(
            list(zip(backups, contents, strict=True)), 2
        ):
            (found,) = diff(repository, old, new)
            # A letter changes all bytes of its frame, so that this is exact to the byte.
            assert (_told(found, len(after)) == _different(before, after)).all()
            for start, length, zero in found.changes:
                assert zero == (after[start : start + length] == bytes(length))
            was_zero = np.frombuffer(before[: len(after)].ljust(len(after), b"\0"), np.uint8) == 0
            is_data = np.frombuffer(after, np.uint8) != 0
            assert found.new_bytes == int((was_zero & is_data).sum())
            assert found.data_bytes == found.new_bytes + found.rewritten_bytes


@settings(max_examples=25, deadline=None)
@given(_steps(1536))
def test_no_different_byte_is_left_out_however_frames_are_cut(steps: list[tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Repository.create(Path(folder) / "r") as repository:
        backups, contents = _written(repository, steps)
        for (old, before), (new, after) in itertools.combinations(
            list(zip(backups, contents, strict=True)), 2
        ):
            (found,) = diff(repository, old, new)
            assert not (_different(before, after) & ~_told(found, len(after))).any()
            # Read as well, no more is told than blocks that have a different byte.
            (exact,) = diff(repository, old, new, exact=True)
            told, truly = _told(exact, len(after)), _different(before, after)
            assert not (truly & ~told).any() and not (told & ~_blocks(truly)).any()


STORY = (
    ("1m:A 64k:0 1m:B 512:C", False),
    ("64k:- 64k:X 128k:0 1m:- 512:D", False),
    ("64k:- 64k:X 128k:0 2m:-", False),
)


@pytest.fixture
def story(repository: Repository) -> list[Backup]:
    return written(repository, STORY)


def _document(command: Pitr, *arguments: str | Path, code: int = 0) -> Any:
    return command.json("diff", *arguments, code=code)


def test_the_document_adds_up(command: Pitr, story: list[Backup]) -> None:
    found = _document(command, "--point", story[0].backup_id, "--point", story[1].backup_id, "--extents")
    assert found["before"]["backup_id"] == story[0].backup_id
    assert found["after"]["backup_id"] == story[1].backup_id
    assert found["html"] is None
    (one,) = found["disks"]
    assert one["disk_id"] == disk_id(0) and one["state"] == "changed" and one["name"] == "disk0"
    assert one["size_before"] == one["size_after"] + (2 * 1024 + 64) * KiB + 512 - (1024 + 256) * KiB - 512
    assert one["changes"] == [
        {"start": 64 * KiB, "length": 64 * KiB, "zero": False},
        {"start": 128 * KiB, "length": 128 * KiB, "zero": True},
        {"start": 1280 * KiB, "length": 512, "zero": False},
    ]
    assert (one["data_bytes"], one["zero_bytes"]) == (64 * KiB + 512, 128 * KiB)
    assert one["new_bytes"] + one["rewritten_bytes"] == one["data_bytes"]
    assert one["extents"] == 3 and one["changed_bytes"] == found["changed_bytes"] == 192 * KiB + 512


def test_what_is_stored_again_with_the_same_content_is_the_same(command: Pitr, story: list[Backup]) -> None:
    found = _document(command, "--point", story[1].backup_id, "--point", story[2].backup_id)
    (one,) = found["disks"]
    assert story[2].streams[0].data_bytes == 64 * KiB, "the incremental does hold data"
    # It has grown, and the letter D of the end is what it was.
    assert one["state"] == "changed" and one["changed_bytes"] == 0
    assert one["size_after"] > one["size_before"]


def test_exact_finds_the_same_with_any_number_of_workers_and_resolves_once(repository: Repository) -> None:
    writer = Writer(repository)
    chance = random.Random(5)
    letters = [chance.choice("ABC0") for _ in range(300)]
    first = writer.add(" ".join(f"32k:{letter}" for letter in letters))
    for number in range(0, 300, 7):
        letters[number] = "D"
    second = writer.add(" ".join(f"32k:{letter}" for letter in letters), full=True, frame_size=64 * KiB)
    found = []
    for workers in (1, 2, 7):
        with mock.patch.object(Repository, "chain", autospec=True, side_effect=Repository.chain) as resolved:
            (one,) = diff(repository, first, second, exact=True, workers=workers)
        assert resolved.call_count == 2
        found.append((list(one.changes), one.new_bytes))
    assert found[0] == found[1] == found[2]
    assert one.changed_bytes == 43 * 32 * KiB


def test_exact_reads_what_a_full_has_cut_differently(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository)
    writer.add("2m:A 1m:0", "64k:A")
    old = writer.add("256k:- 64k:B 64k:0 2688k:-", "64k:-")
    new = writer.add("256k:A 64k:B 64k:0 4k:C 1660k:A 1m:0", "64k:A", full=True)
    pair = ("--point", old.backup_id, "--point", new.backup_id, "--extents")
    by_index = _document(command, *pair)
    assert by_index["exact"] is False and by_index["disks"][0]["changed_bytes"] > 900 * KiB
    found = _document(command, *pair, "--exact")
    assert found["exact"] is True
    assert found["disks"][0]["changes"] == [{"start": 384 * KiB, "length": 4096, "zero": False}]
    assert [one["state"] for one in found["disks"]] == ["changed", "same"]
    # It reads: damaged data is found.
    with repository.open_index(new, new.streams[0]) as index:
        frame = int(index.frames().blob_offset[0])
    flip_bit(blob_path(repository, new.streams[0]), frame + 8)
    assert _document(command, *pair)["changed_bytes"] == by_index["changed_bytes"]
    command("diff", *pair, "--exact", code=3)


def test_the_earlier_point_comes_first_however_they_are_named(command: Pitr, story: list[Backup]) -> None:
    at = [f"2020-06-29T{hour}:30Z" for hour in (22, 23)]
    ids = [backup.backup_id for backup in story]
    for arguments in (
        ("--at", at[0], "--at", at[1]),
        ("--at", at[1], "--at", at[0]),
        ("--point", ids[1][:8], "--at", at[0]),
        ("web", "--point", ids[1], "--point", ids[0]),
        (VM.id, "--at", at[1], "--point", ids[0]),
    ):
        found = _document(command, *arguments)
        assert [found[which]["backup_id"] for which in ("before", "after")] == ids[:2]


def test_points_of_one_time_are_ordered_by_lineage(repository: Repository) -> None:
    writer = Writer(repository)
    older, newer = (writer.add("64k:A", point=FIRST_POINT) for _ in range(2))
    for ids in ([older.backup_id, newer.backup_id], [newer.backup_id, older.backup_id]):
        assert choose(repository, None, [], ids) == (older, newer)


def test_a_difference_is_of_two_points_of_one_vm(
    repository: Repository, command: Pitr, story: list[Backup]
) -> None:
    ids = [backup.backup_id for backup in story]
    for arguments in (
        (),
        ("--at", "now"),
        ("--point", ids[0]),
        tuple(itertools.chain(*(("--point", one) for one in ids))),
    ):
        assert "diff needs two points" in command("diff", *arguments, code=2).complaint
    other = Writer(repository, VMName("11111111-0000-4000-8000-000000000002", "db"))
    stranger = other.add("64k:A")
    assert (
        "different VMs" in command("diff", "--point", ids[0], "--point", stranger.backup_id, code=2).complaint
    )
    assert "several VMs" in command("diff", "--at", "now", "--at", "2020-06-29T22:30Z", code=2).complaint
    assert command("diff", "web", "--point", ids[0], "--point", stranger.backup_id, code=4)
    assert command("diff", "web", "--at", "2020-06-29T21:00Z", "--at", "now", code=4)
    complaint = command("diff", "--point", ids[0], "--point", ids[1], "--disk", "nix", code=4).complaint
    assert "'nix'" in complaint and "disk0" in complaint


def test_two_times_with_no_point_between_them(command: Pitr, story: list[Backup]) -> None:
    at = ("--at", "2020-06-29T22:10Z", "--at", "2020-06-29T22:50Z")
    found = _document(command, *at)
    assert found["before"]["backup_id"] == found["after"]["backup_id"] == story[0].backup_id
    assert [one["state"] for one in found["disks"]] == ["same"] and found["changed_bytes"] == 0
    assert "the same point: there is no other point between" in command("diff", *at).stdout


def test_disks_that_only_one_point_holds(repository: Repository, command: Pitr) -> None:
    both = Writer(repository)
    first = both.add("64k:A 64k:0", "64k:B")
    only = both.add("64k:A 64k:0", full=True)
    back = both.add("64k:A 64k:0", "32k:B 96k:0", full=True)
    gone = _document(command, "--point", first.backup_id, "--point", only.backup_id)["disks"]
    assert [(one["disk_id"], one["state"]) for one in gone] == [(disk_id(0), "same"), (disk_id(1), "removed")]
    assert (gone[1]["size_before"], gone[1]["size_after"], gone[1]["changed_bytes"]) == (64 * KiB, None, 0)
    new = _document(command, "--point", only.backup_id, "--point", back.backup_id, "--disk", "disk1")["disks"]
    assert [(one["disk_id"], one["state"]) for one in new] == [(disk_id(1), "added")]
    assert (new[0]["size_before"], new[0]["size_after"]) == (None, 128 * KiB)
    assert new[0]["data_bytes"] == new[0]["new_bytes"] == 32 * KiB and new[0]["zero_bytes"] == 0
    text = command("diff", "--point", first.backup_id, "--point", only.backup_id).stdout
    assert "only in the earlier point" in text


def test_a_disk_that_was_left_out_is_told_apart_from_one_that_is_gone(
    repository: Repository, command: Pitr
) -> None:
    lun = "33333333-0000-4000-8000-000000000001"
    stream = fake_stream()
    first = backup_of([stream, replace(fake_stream(), disk_id=lun, name="lun")], point=FIRST_POINT)
    second = backup_of([fake_stream()], point=FIRST_POINT + timedelta(hours=1))
    for backup in (first, second):
        repository.commit(Record(backup, None))
    found = diff(repository, first, second, disks=[lun])
    assert [(one.state, one.note) for one in found] == [("removed", "left out of the backup: no image")]


def test_growth_and_shrinking_alone_are_no_other_content(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository)
    small = writer.add("64k:A")
    large = writer.add("64k:- 64m:-")
    pair = ("--point", small.backup_id, "--point", large.backup_id)
    (one,) = _document(command, *pair)["disks"]
    assert (one["state"], one["changed_bytes"], one["size_after"]) == ("changed", 0, 64 * KiB * (KiB + 1))
    assert "grown by 64 MiB" in command("diff", *pair).stdout
    shrunk = writer.add("32k:-")
    assert "shrunk by" in command("diff", "--point", large.backup_id, "--point", shrunk.backup_id).stdout


def test_the_map_shows_where(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository)
    first = writer.add("1m:A 1m:B 1m:0")
    second = writer.add("512k:- 128k:X 384k:- 512k:0 512k:- 512k:Y 512k:-")
    arguments = ("diff", "--point", first.backup_id, "--point", second.backup_id)
    narrow = command.with_environment(COLUMNS="60")
    rows = [line.split()[-1] for line in narrow(*arguments).stdout.splitlines() if line.endswith(("·", "█"))]
    # 3 MiB in cells of 16 KiB, 32 a row.
    assert "".join(rows) == "·" * 32 + "█" * 8 + "·" * 24 + "█" * 32 + "·" * 32 + "█" * 32 + "·" * 32
    assert {len(row) for row in rows[:-1]} == {32}
    assert all(len(line) <= 60 for line in narrow(*arguments).stdout.splitlines())


def test_a_terminal_without_unicode_gets_ascii(repository: Repository, story: list[Backup]) -> None:
    environment = {"PITR_REPO": str(repository.path), "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    with Pitr(environment).process(
        "diff", "--point", story[0].backup_id, "--point", story[1].backup_id
    ) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.isascii() and "####" in out and "\x1b" not in out


def test_damage_is_told_and_nothing_is_guessed(
    repository: Repository, command: Pitr, story: list[Backup], tmp_path: Path
) -> None:
    pair = ("--point", story[0].backup_id, "--point", story[1].backup_id)
    flip_bit(index_path(repository, story[0].streams[0]), 5000)
    page = tmp_path / "page.html"
    failed = command("diff", *pair, "--html", page, "--output", "json", code=3)
    assert failed.error["type"] == "StoredDamage"
    assert list(tmp_path.glob("page.html*")) == []
    record_path(repository, story[2]).write_bytes(b"{}")
    command("catalog", "rebuild", code=3)
    # The newest record cannot be read: an older point must not be taken for the newest.
    command("diff", "--point", story[0].backup_id, "--at", "now", code=3)


def test_names_cannot_write_to_the_terminal(repository: Repository, command: Pitr) -> None:
    writer = Writer(repository, VMName(VM.id, "web\x1b[31m\u202e"))
    first, second = writer.add("64k:A"), writer.add("64k:B")
    text = command("diff", "--point", first.backup_id, "--point", second.backup_id).stdout
    assert "web\\x1b[31m\\u202e" in text and "\x1b" not in text and "\u202e" not in text


def test_it_agrees_with_an_export_of_the_difference(
    command: Pitr, story: list[Backup], tmp_path: Path
) -> None:
    (one,) = _document(command, "--point", story[0].backup_id, "--point", story[1].backup_id)["disks"]
    told = command.json(
        *("export", "--point", story[1].backup_id, "--since", story[0].backup_id, "--to", tmp_path / "out")
    )["export"]
    assert (told["data_bytes"], told["zero_bytes"]) == (one["data_bytes"], one["zero_bytes"])


def test_progress_goes_to_standard_error(command: Pitr, story: list[Backup]) -> None:
    done = command("diff", "--point", story[0].backup_id, "--point", story[1].backup_id, "--output", "json")
    last = json.loads(done.stderr.splitlines()[-1])["progress"]
    assert last["done"] == last["total"] == sum(backup.streams[0].size for backup in story[:2])
