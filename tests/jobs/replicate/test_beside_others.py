# SPDX-License-Identifier: GPL-2.0-or-later
"""Replication beside backups, removals and other replications of the same repositories."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.replicate import one_vm
from pitr.jobs.replicate.one_object import copy_object
from pitr.jobs.replicate.outcome import ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.repository import Repository
from pitr.repository.location import Location
from pitr.repository.store import ColdObject
from tests.jobs.replicate.test_replicate import check, copied, ids, place, stored
from tests.support.stored_points import Stored, change, check_verified

__all__ = ["place", "stored"]


def _before_copy_number(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    """Do something in the middle of the next replication, before it copies this object."""
    counted = iter(range(1, 10_000))
    lock = threading.Lock()

    def copying(*arguments: Any, **named: Any) -> Any:
        with lock:
            if next(counted) == number:
                action()
        return copy_object(*arguments, **named)

    monkeypatch.setattr(one_vm, "copy_object", copying)


@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_removal_in_the_source_in_the_middle_is_no_error(
    stored: tuple[Stored, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    points, vm = stored
    full = points.back_up(vm, full=True)

    def remove() -> None:
        with Repository.open(points.path) as repository:
            prune(repository, Retention(last=1), repository.catalog.vms(), notify=pytest.fail)

    _before_copy_number(monkeypatch, number, remove)
    done = copied(points.path, tmp_path / "second")
    assert (done.damage, done.behind, done.exit_code) == ([], 0, 0)
    assert ids(points.path) == [full.backup_id]
    assert full.backup_id in ids(tmp_path / "second")
    check_verified(tmp_path / "second", at_least={full.backup_id})
    check(tmp_path / "second", points)


@pytest.mark.parametrize("number", [1, 6])
def test_a_consolidation_in_the_middle_is_no_error(
    stored: tuple[Stored, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    points, _ = stored

    def shorten() -> None:
        with Repository.open(points.path) as repository:
            middle = repository.catalog.points()[1]
            (new,) = consolidate(repository, middle).created
            points.contents[new.backup_id] = points.contents[middle.backup_id]

    _before_copy_number(monkeypatch, number, shorten)
    done = copied(points.path, tmp_path / "second")
    assert (done.damage, done.behind) == ([], 0)
    assert set(ids(points.path)) <= set(ids(tmp_path / "second"))
    check_verified(tmp_path / "second", at_least=set(ids(points.path)))
    check(tmp_path / "second", points)


def test_a_backup_in_the_middle_is_whole_or_comes_later(
    stored: tuple[Stored, Any], place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, vm = stored
    change(vm, random.Random(8))
    _before_copy_number(monkeypatch, 3, lambda: points.back_up(vm))
    assert copied(points.path, place).exit_code == 0
    check(place, points)
    copied(points.path, place)
    assert ids(place) == ids(points.path)
    check(place, points)


def test_several_replications_at_once_make_one_copy(stored: tuple[Stored, Any], place: Location) -> None:
    points, _ = stored
    copied(points.path, place, since=None, vms=[])
    with ThreadPoolExecutor(3) as pool:
        results = [future.result() for future in [pool.submit(copied, points.path, place) for _ in range(3)]]
    assert all((done.exit_code, done.behind) == (0, 0) for done in results)
    assert ids(place) == ids(points.path)
    check(place, points)
    with Repository.open(place) as repository:
        assert not repository.check_catalog().differences


def test_several_replications_at_once_make_the_target_once(
    stored: tuple[Stored, Any], tmp_path: Path
) -> None:
    points, _ = stored
    with ThreadPoolExecutor(3) as pool:
        started = [pool.submit(copied, points.path, tmp_path / "second") for _ in range(3)]
        results = [future.result() for future in started]
    assert len({done.target_id for done in results}) == 1
    assert ids(tmp_path / "second") == ids(points.path)


def test_a_removal_in_the_target_in_the_middle_costs_no_point(
    stored: tuple[Stored, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, vm = stored
    target = tmp_path / "second"
    copied(points.path, target)
    change(vm, random.Random(9))
    later = points.back_up(vm)
    removed = ids(target)

    def remove() -> None:
        with Repository.open(target) as repository:
            repository.remove(repository.catalog.points())
            prune(repository, Retention(), [], notify=lambda line: None)

    # The base of the new point goes while its objects are copied: all come again, because the source has them.
    _before_copy_number(monkeypatch, 1, remove)
    done = copied(points.path, target)
    assert (done.damage, done.behind) == ([], 0)
    assert ids(target) == [later.backup_id, *removed]
    check_verified(target, at_least={later.backup_id, *removed})
    check(target, points)


def test_a_cold_object_keeps_only_what_needs_it(
    stored: tuple[Stored, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, _ = stored
    middle = ids(points.path)[1]
    told: list[str] = []

    def copying(source: Any, target: Any, piece: Any, *rest: Any) -> Any:
        if piece.is_blob and piece.backup.backup_id == middle:
            raise ColdObject(f"{piece.name} is in a cold storage class", "Warm it.")
        return copy_object(source, target, piece, *rest)

    with monkeypatch.context() as patch, Repository.open(points.path) as repository:
        patch.setattr(one_vm, "copy_object", copying)
        done = replicate(repository, tmp_path / "second", ReplicateOptions(), ReplicateWatch(told.append))
    assert (done.points, done.behind, done.damage, done.exit_code) == (1, 2, [], 6)
    assert done.cold == 2 and len(told) == 1
    assert copied(points.path, tmp_path / "second").points == 2
