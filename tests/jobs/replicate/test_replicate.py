# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr replicate`: copies of repositories on other stores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.repository import Repository
from pitr.repository.location import Location
from tests.support import s3
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import Stored, chain_of_three, change, content

WATCH = ReplicateWatch(pytest.fail)


@pytest.fixture
def stored(tmp_path: Path, memory_engine: MemoryEngine) -> tuple[Stored, Any]:
    return chain_of_three(tmp_path / "first", memory_engine)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "second" if request.param == "folder" else s3.place()


def copied(source: Location, target: Location, **options: Any) -> Replicated:
    with Repository.open(source) as repository:
        return replicate(repository, target, ReplicateOptions(**options), WATCH)


def ids(location: Location) -> list[str]:
    with Repository.open(location) as repository:
        return [backup.backup_id for backup in repository.catalog.points()]


def check(location: Location, stored: Stored) -> None:
    with Repository.open(location) as repository:
        for backup in repository.catalog.points():
            assert content(repository, backup) == stored.contents[backup.backup_id]


def test_a_copy_lists_the_same_points_with_the_same_content(
    stored: tuple[Stored, Any], place: Location
) -> None:
    points, vm = stored
    done = copied(points.path, place)
    assert (done.points, done.behind, done.damage, done.exit_code) == (3, 0, [], 0)
    assert ids(place) == ids(points.path)
    check(place, points)
    again = copied(points.path, place)
    assert (again.points, again.objects, again.bytes) == (0, 0, 0)
    change(vm, random.Random(1))
    points.back_up(vm)
    later = copied(points.path, place)
    assert later.points == 1 and later.bytes < done.bytes
    assert ids(place) == ids(points.path)
    check(place, points)
