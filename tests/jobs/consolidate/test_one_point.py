# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr consolidate`: a synthetic point takes the place of an incremental one."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import BusyError, Interrupted
from pitr.jobs.consolidate.one_point import Consolidated, consolidate
from pitr.jobs.facts import facts_of
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.model import Kind
from pitr.repository import Repository, marks
from pitr.repository.damage import StoredDamage
from pitr.repository.marks import Hold
from tests.support.memory_engine import MemoryEngine
from tests.support.pitr import Pitr
from tests.support.points import blob_path
from tests.support.stored_points import Stored, chain_of_three, change, check_contents, check_verified


@pytest.fixture
def stored(tmp_path: Path, memory_engine: MemoryEngine) -> tuple[Stored, Any]:
    return chain_of_three(tmp_path / "repository", memory_engine)


def files(path: Path) -> dict[str, bytes]:
    kept = ("backups", "streams", "blobs", "indexes")
    return {
        str(file): file.read_bytes() for name in kept for file in (path / name).glob("**/*") if file.is_file()
    }


def test_the_points_before_a_consolidated_one_may_go(stored: tuple[Stored, Any]) -> None:
    points, vm = stored
    chance = random.Random(1)
    with Repository.open(points.path) as repository:
        first, second = repository.catalog.points()[1], repository.catalog.points()[0]
        before = files(points.path)
        planned = consolidate(repository, second, dry_run=True)
        assert files(points.path) == before
        done = consolidate(repository, second)
        (new,) = done.created
        assert (
            done.removed == (second,)
            and done.copied_bytes == 0
            and done.freed_bytes == planned.freed_bytes > 0
        )
        assert [stream.data_bytes for stream in planned.created[0].streams] == [
            stream.data_bytes for stream in new.streams
        ]
        assert (new.kind, new.point, new.stands_for) == (Kind.SYNTHETIC, second.point, second.backup_id)
        assert first in repository.catalog.points() and second not in repository.catalog.points()
        assert consolidate(repository, new) == Consolidated()
    points.contents[new.backup_id] = points.contents[second.backup_id]
    # The next backup is based on the new point.
    change(vm, chance)
    later = points.back_up(vm)
    assert later.parent_id == second.backup_id and later.kind is Kind.INCREMENTAL
    with Repository.open(points.path) as repository:
        pruned = prune(repository, Retention(last=2), repository.catalog.vms(), notify=pytest.fail)
        assert len(pruned.removed) == 2
        # Its blobs were hardly live any more, so it was written again.
        assert repository.catalog.points() == [later, *pruned.consolidated]
        (again,) = pruned.consolidated
        assert again.stands_for == second.backup_id and again.stored_bytes > pruned.copied_bytes > 0
    points.contents[again.backup_id] = points.contents[second.backup_id]
    check_verified(points.path, at_least={later.backup_id, again.backup_id})
    check_contents(points.path, points)


def test_a_point_in_the_middle_keeps_what_is_based_on_it(stored: tuple[Stored, Any]) -> None:
    points, _ = stored
    with Repository.open(points.path) as repository:
        last, middle, full = repository.catalog.points()
        assert consolidate(repository, full) == Consolidated()
        (new,) = consolidate(repository, middle).created
        points.contents[new.backup_id] = points.contents[middle.backup_id]
        pruned = prune(repository, Retention(last=2), repository.catalog.vms(), notify=pytest.fail)
        assert repository.catalog.points() == [last, *pruned.consolidated]
        (again,) = pruned.consolidated
    points.contents[again.backup_id] = points.contents[middle.backup_id]
    check_verified(points.path, at_least={last.backup_id, again.backup_id})
    check_contents(points.path, points)


def test_a_hold_and_a_note_go_over(stored: tuple[Stored, Any]) -> None:
    points, _ = stored
    with Repository.open(points.path) as repository:
        last = repository.catalog.points()[0]
        held = Hold(datetime(2100, 1, 1, tzinfo=UTC))
        marks.hold(repository.store, last, held)
        marks.note(repository.store, last, "before the upgrade")
        (new,) = consolidate(repository, last).created
        assert facts_of(repository, new).marks == marks.Marks(held, "before the upgrade")


def test_an_interrupted_run_loses_nothing_and_is_continued(
    stored: tuple[Stored, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    points, _ = stored
    with Repository.open(points.path) as repository:
        last = repository.catalog.points()[0]
        with monkeypatch.context() as patch:
            patch.setattr(Repository, "commit", interrupt)
            before = files(points.path)
            with pytest.raises(Interrupted):
                consolidate(repository, last)
            assert files(points.path) == before
        with monkeypatch.context() as patch:
            patch.setattr(Repository, "remove", interrupt)
            with pytest.raises(Interrupted):
                consolidate(repository, last)
        new = repository.catalog.stand_in(last.backup_id)
        assert new is not None
        points.contents[new.backup_id] = points.contents[last.backup_id]
    check_verified(points.path, at_least={last.backup_id, new.backup_id})
    check_contents(points.path, points)
    with Repository.open(points.path) as repository:
        assert consolidate(repository, last).created == (new,)
        assert last not in repository.catalog.points()
    check_verified(points.path, at_least={new.backup_id})


def interrupt(*arguments: object) -> None:
    raise Interrupted(2)


def test_a_damaged_or_busy_point_stays(stored: tuple[Stored, Any]) -> None:
    points, _ = stored
    with Repository.open(points.path) as repository:
        last, middle, _ = repository.catalog.points()
        with repository.reading_vm(last.vm), pytest.raises(BusyError):
            consolidate(repository, last)
        blob_path(repository, middle.streams[0]).unlink()
        before = files(points.path)
        with pytest.raises(StoredDamage):
            consolidate(repository, last)
        assert files(points.path) == before


def test_the_command_prints_one_document(stored: tuple[Stored, Any]) -> None:
    points, vm = stored
    pitr = Pitr({"PITR_REPO": str(points.path)})
    with Repository.open(points.path) as repository:
        last = repository.catalog.points()[0]
    planned = pitr.json("consolidate", vm.name, "--dry-run")
    assert planned["removed"][0]["backup_id"] == last.backup_id
    done = pitr.json("consolidate", vm.name)
    assert done.keys() == planned.keys() == {"created", "removed", "copied_bytes", "freed_bytes"}
    (new,) = done["created"]
    assert (new["kind"], new["stands_for"], new["point"]) == (
        "synthetic",
        last.backup_id,
        done["removed"][0]["point"],
    )
    assert pitr.json("show", last.backup_id)["point"]["backup_id"] == new["backup_id"]
    assert [each["backup_id"] for each in pitr.json("list", vm.name)["points"]].count(new["backup_id"]) == 1
    assert pitr.json("consolidate", vm.name)["created"] == []
