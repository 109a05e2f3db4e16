# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rebuild gives back of repositories with virtual fulls: from records everything, from blobs what they tell."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.model import Backup
from pitr.repository import Repository
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.pitr import Pitr
from tests.support.points import flip_bit, record_path
from tests.support.stored_points import Stored, chain_of_three, change, check_contents, check_verified

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def stored(tmp_path: Path, memory_engine: MemoryEngine) -> tuple[Stored, MemoryVM]:
    """A full, an incremental that a virtual full replaced, and two incrementals based on that."""
    points, vm = chain_of_three(tmp_path / "repository", memory_engine)
    change(vm, random.Random(3))
    points.back_up(vm)
    with Repository.open(points.path) as repository:
        middle = repository.catalog.points()[2]
        (new,) = consolidate(repository, middle).created
    points.contents[new.backup_id] = points.contents.pop(middle.backup_id)
    return points, vm


def command_of(points: Stored) -> Pitr:
    return Pitr({"PITR_REPO": str(points.path), "TZ": "UTC"})


def newest_first(points: Stored) -> list[Backup]:
    with Repository.open(points.path) as repository:
        return repository.catalog.points()


def forget_records(points: Stored, *backups: Backup) -> None:
    """Lose records, and the catalog with them."""
    with Repository.open(points.path) as repository:
        for backup in backups:
            record_path(repository, backup).unlink()
    (points.path / "catalog.db").unlink()


def test_a_catalog_made_again_from_records_is_the_same(stored: tuple[Stored, MemoryVM]) -> None:
    points, _ = stored
    command = command_of(points)
    listed = command.json("list")
    assert command.json("catalog", "check")["ok"]
    command("catalog", "rebuild")
    assert command.json("list") == listed and command.json("catalog", "check")["ok"]
    (points.path / "catalog.db").unlink()
    assert command.json("list") == listed and command.json("catalog", "check")["ok"]
    check_contents(points.path, points)


def test_records_of_incrementals_come_back_to_the_virtual_full_in_the_place_of_their_parent(
    stored: tuple[Stored, MemoryVM],
) -> None:
    points, _ = stored
    before = newest_first(points)
    forget_records(points, *before[:2])
    command_of(points).json("catalog", "rebuild", "--from-blobs")
    after = newest_first(points)
    assert [each.backup_id for each in after] == [each.backup_id for each in before]
    assert after[1].parent_id == before[1].parent_id == before[2].stands_for
    check_verified(points.path, at_least={each.backup_id for each in before})
    check_contents(points.path, points)


def test_without_the_record_of_a_virtual_full_its_parts_give_back_what_it_replaced(
    stored: tuple[Stored, MemoryVM],
) -> None:
    points, _ = stored
    before = newest_first(points)
    lost = before[2]
    forget_records(points, lost)
    command = command_of(points)
    # A table would break the names where a terminal is narrow.
    result = command.run("catalog", "rebuild", "--from-blobs", "--output", "json")
    assert result.code == 3
    assert all(
        f"indexes/{stream.disk_id}/{stream.stream_id}.copy.db" in result.stdout for stream in lost.streams
    )
    assert "no blob can give its point back" in result.stdout
    points.contents[lost.stands_for or ""] = points.contents[lost.backup_id]
    after = newest_first(points)
    assert {each.backup_id for each in after} == {
        lost.stands_for,
        *(each.backup_id for each in before if each is not lost),
    }
    check_verified(points.path, at_least={each.backup_id for each in after})
    check_contents(points.path, points)


def test_a_virtual_full_without_the_older_points_is_lost_with_its_record_and_that_is_told(
    stored: tuple[Stored, MemoryVM],
) -> None:
    points, _ = stored
    with Repository.open(points.path) as repository:
        prune(repository, Retention(last=3), repository.catalog.vms(), notify=pytest.fail)
    last, middle, virtual = newest_first(points)
    # A blob that it used is lost as well, so that its parts give nothing back.
    part = virtual.streams[0].parts[0]
    (points.path / f"blobs/{part.disk_id}/{part.stream_id}.sparse.zst").unlink()
    forget_records(points, virtual)
    result = command_of(points).run("catalog", "rebuild", "--from-blobs")
    assert result.code == 3
    assert "no blob can give its point back" in result.stdout
    listed = {each["backup_id"]: each for each in command_of(points).json("list")["points"]}
    assert {last.backup_id, middle.backup_id} <= listed.keys()
    found = command_of(points).json("verify", code=3)
    assert {last.backup_id, middle.backup_id} <= {
        point for each in found["damage"] for point in each["points_lost"]
    }


def test_damage_in_a_part_names_all_points_that_depend_on_it_in_every_view(
    stored: tuple[Stored, MemoryVM], tmp_path: Path
) -> None:
    points, vm = stored
    with Repository.open(points.path) as repository:
        # Only the virtual full and what is based on it are left.
        prune(repository, Retention(last=3), repository.catalog.vms(), notify=pytest.fail)
    lost = newest_first(points)
    part = lost[2].streams[0].parts[0]
    blob = points.path / f"blobs/{part.disk_id}/{part.stream_id}.sparse.zst"
    flip_bit(blob, blob.stat().st_size // 2)
    independent = points.back_up(vm, full=True)
    command = command_of(points)
    found = command.json("verify", code=3)
    named = {point for each in found["damage"] for point in each["points_lost"]}
    assert named == {each.backup_id for each in lost}
    listed = {each["backup_id"]: each["damaged"] for each in command.json("list")["points"]}
    assert listed == {**dict.fromkeys(named, True), independent.backup_id: False}
    for each in lost:
        assert command.json("show", each.backup_id)["point"]["damaged"]
    # The blob is whole again: a clean check ends the findings of all of them.
    flip_bit(blob, blob.stat().st_size // 2)
    assert command.json("verify")["ok"]
    assert not any(each["damaged"] for each in command.json("list")["points"])


def test_a_rebuild_from_blobs_beside_a_virtual_full_brings_nothing_back_that_prune_removed(
    stored: tuple[Stored, MemoryVM],
) -> None:
    points, _ = stored
    with Repository.open(points.path) as repository:
        prune(repository, Retention(last=3), repository.catalog.vms(), notify=pytest.fail)
    before = newest_first(points)
    command_of(points)("catalog", "rebuild", "--from-blobs")
    assert newest_first(points) == before
