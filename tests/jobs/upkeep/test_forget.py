# SPDX-License-Identifier: GPL-2.0-or-later
"""Forget: the named points go as safely as prune removes points, and nothing that others need."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pitr import times
from pitr.jobs.upkeep.forget import forget
from pitr.model import VMName
from pitr.repository import Repository
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.pitr import Pitr
from tests.support.stored_points import Stored, chain_of_three, check_contents, check_verified, unnamed_files


@pytest.fixture
def stored(tmp_path: Path, memory_engine: MemoryEngine) -> Iterator[tuple[Stored, MemoryVM, MemoryVM]]:
    """web1 with a chain of three points, db1 with two fulls."""
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    other = memory_engine.add_vm("db1", bytes(1 << 16))
    for _ in range(2):
        stored.back_up(other, full=True)
    yield stored, vm, other


def _pitr(stored: Stored) -> Pitr:
    return Pitr({"PITR_REPO": str(stored.path), "PITR_CONFIG": "", "COLUMNS": "200"})


def _ids(points: list[dict[str, str]]) -> list[str]:
    return [point["backup_id"] for point in points]


def test_what_other_points_are_based_on_is_refused_unless_they_go_too(
    stored: tuple[Stored, MemoryVM, MemoryVM],
) -> None:
    points, _, _ = stored
    full, middle, newest, db_old, db_new = points.contents
    pitr = _pitr(points)
    for dry_run in ([], ["--dry-run"]):
        # The point of the other VM does not go either.
        refused = pitr("forget", db_old, full, *dry_run, code=2).complaint
        assert middle in refused and newest in refused
        assert (
            middle not in pitr("forget", full, middle, *dry_run, code=2).complaint.partition(": ")[2].split()
        )
    assert len(pitr.json("list")["points"]) == 5

    planned = pitr.json("forget", newest[:8], middle, db_old, "--dry-run")
    assert planned["dry_run"] and len(pitr.json("list")["points"]) == 5
    done = pitr.json("forget", newest[:8], middle, db_old)
    assert {**done, "dry_run": True} == planned
    assert _ids(done["removed"]) == [newest, middle, db_old]
    assert {point["backup_id"]: point["kept_by"] for point in done["kept"]} == {
        full: ["not named"],
        db_new: ["not named"],
    }
    assert (done["busy"], done["failed"]) == ([], [])
    assert unnamed_files(points.path) == set()
    assert check_verified(points.path, at_least={full}) == {full, db_new}
    check_contents(points.path, points)


def test_all_points_of_a_vm_go(stored: tuple[Stored, MemoryVM, MemoryVM]) -> None:
    points, vm, _ = stored
    pitr = _pitr(points)
    assert "web1 --all" in pitr("forget", vm.name, code=4).complaint
    assert pitr("forget", "nosuch", code=4).complaint
    assert pitr("forget", "nosuch", "--all", code=4).complaint
    shown = pitr("forget", vm.name, "--all").stdout
    assert shown.startswith("Removed 3 points:")
    assert {point["vm"]["name"] for point in pitr.json("list")["points"]} == {"db1"}
    assert unnamed_files(points.path) == set()
    check_contents(points.path, points)


def test_a_time_forgets_only_a_point_within_it(stored: tuple[Stored, MemoryVM, MemoryVM]) -> None:
    points, vm, _ = stored
    newest = list(points.contents)[2]
    pitr = _pitr(points)
    with Repository.open(points.path) as repository:
        moment = repository.record_of(newest).point
    later = (moment + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    refused = pitr("forget", vm.name, "--at", later, code=4).complaint
    assert newest in refused and "no point within" in refused
    assert pitr("forget", vm.name, "--at", later, "--all", code=2)
    assert _ids(pitr.json("forget", vm.name, "--at", "now", "--dry-run")["removed"]) == [newest]
    assert _ids(pitr.json("forget", vm.name, "--at", times.to_text(moment))["removed"]) == [newest]


def test_points_that_are_being_read_stay_and_the_others_go(stored: tuple[Stored, MemoryVM, MemoryVM]) -> None:
    points, vm, _ = stored
    pitr = _pitr(points)
    with Repository.open(points.path) as reader, reader.reading_vm(VMName(vm.id, vm.name)):
        result = pitr("forget", vm.name, "db1", "--all", "-o", "json", code=5)
    assert [busy["vm"] for busy in result.json["busy"]] == [{"id": vm.id, "name": vm.name}]
    assert "another pitr works on" in result.json["busy"][0]["message"]
    assert {point["vm"]["name"] for point in result.json["removed"]} == {"db1"}
    assert len(pitr.json("list")["points"]) == 3


def test_a_point_that_became_needed_in_the_meantime_stays(
    stored: tuple[Stored, MemoryVM, MemoryVM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup ends between the first look and the lock."""
    points, vm, _ = stored
    newest = list(points.contents)[2]
    with Repository.open(points.path) as repository:
        backup = repository.record_of(newest)
        lock = repository.removing_from_vm

        def slow(name: VMName) -> object:
            points.back_up(vm)
            return lock(name)

        monkeypatch.setattr(repository, "removing_from_vm", slow)
        done = forget(repository, [backup], [], notify=lambda line: None)
    assert done.removed == [] and done.exit_code == 2
    check_contents(points.path, points)


def test_prune_takes_vms_as_arguments_and_its_whole_document_comes_with_busy_vms(
    stored: tuple[Stored, MemoryVM, MemoryVM],
) -> None:
    points, vm, other = stored
    pitr = _pitr(points)
    only = pitr.json("prune", "db1", "--keep-last", "1", "--dry-run")
    assert only == pitr.json("prune", "--vm", "db1", "--keep-last", "1", "--dry-run")
    assert {point["vm"]["name"] for point in [*only["removed"], *only["kept"]]} == {"db1"}
    with Repository.open(points.path) as reader, reader.reading_vm(VMName(vm.id, vm.name)):
        text = pitr("prune", "--keep-last", "1", code=5)
        assert "another pitr works on" in text.complaint and vm.name in text.complaint
        assert "Busy, so all points stay: web1" in text.stdout
        assert "Removed 1 point:" in text.stdout and "keep-last 1" in text.stdout
        document = pitr("prune", "--keep-last", "1", "-o", "json", code=5).json
    assert document["busy"][0]["vm"] == {"id": vm.id, "name": vm.name}
    assert document["removed"] == []
    (kept,) = document["kept"]
    assert (kept["vm"]["name"], kept["kept_by"]) == (other.name, ["keep-last 1"])
