# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr replicate --repair`: the copy's missing and damaged objects come back from the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pitr.jobs import known_damage
from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository, names
from pitr.repository.location import Location
from pitr.repository.store import Store
from tests.jobs.replicate.test_replicate import check, copied, ids, place, stored
from tests.support.stored_points import Stored, check_verified

__all__ = ["place", "stored"]


def _objects(location: Location) -> list[str]:
    """All objects that points need, without records."""
    with Repository.open(location) as repository:
        kinds = (names.BLOBS, names.INDEXES, names.CONFIGURATIONS)
        return sorted(name for kind in kinds for name in repository.store.list(kind))


def _overwrite(store: Store, name: str, data: bytes) -> None:
    with store.replacing(name) as new:
        new.write(data)
        new.commit()


def _changed(store: Store, name: str) -> bytes:
    data = bytearray(store.read(name, limit=1 << 30))
    data[len(data) // 2] ^= 1
    return bytes(data)


def test_every_kind_of_damage_is_repaired_and_its_findings_go(
    stored: tuple[Stored, Any], place: Location
) -> None:
    points, _ = stored
    copied(points.path, place)
    objects = _objects(place)
    with Repository.open(place) as copy:
        good = {name: copy.store.read(name, limit=1 << 30) for name in objects}
        record = next(iter(copy.store.list(names.BACKUPS)))
        good[record] = copy.store.read(record, limit=1 << 30)
        harm = objects[::2]
        for number, name in enumerate([*harm, record]):
            if number % 3 == 0:
                copy.store.delete(name)
            else:
                wrong = good[name][:-1] if number % 3 == 1 else _changed(copy.store, name)
                _overwrite(copy.store, name, wrong)
        assert not verify(copy, Scope(), "full", workers=1).ok
        assert known_damage.losses(copy)
    assert copied(points.path, place, repair=True, dry_run=True).repaired
    done = copied(points.path, place, repair=True)
    assert {each.name for each in done.repaired} >= set(harm)
    assert (done.damage, done.unrepaired, done.exit_code) == ([], [], 0)
    with Repository.open(place) as copy:
        assert {name: copy.store.read(name, limit=1 << 30) for name in good} == good
        assert known_damage.losses(copy) == []
        assert verify(copy, Scope(), "full", workers=1).ok
    assert ids(place) == ids(points.path)
    check(place, points)
    assert copied(points.path, place, repair=True).repaired == []


def test_nothing_good_is_replaced_by_damaged_data(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, _ = stored
    target = tmp_path / "second"
    copied(points.path, target)
    before = {name: (target / name).read_bytes() for name in _objects(target)}
    for name in before:
        (points.path / name).write_bytes(b"damaged")
    done = copied(points.path, target, repair=True)
    assert (done.repaired, done.unrepaired) == ([], [])
    assert {name: (target / name).read_bytes() for name in before} == before
    check_verified(target, at_least=set())


def test_damage_that_the_source_has_too_stays_and_is_named(
    stored: tuple[Stored, Any], tmp_path: Path
) -> None:
    points, _ = stored
    target = tmp_path / "second"
    copied(points.path, target)
    blob = next(name for name in _objects(target) if name.startswith(names.BLOBS))
    half = (target / blob).read_bytes()[:-5]
    (target / blob).write_bytes(half)
    (points.path / blob).write_bytes(b"damaged")
    done = copied(points.path, target, repair=True)
    assert done.repaired == [] and len(done.unrepaired) == 1 and done.exit_code == 3
    assert (target / blob).read_bytes() == half


def test_the_copy_mends_the_original(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, _ = stored
    copied(points.path, tmp_path / "second")
    for name in _objects(points.path):
        (points.path / name).unlink()
    with Repository.open(points.path) as repository:
        assert not verify(repository, Scope(), "full", workers=1).ok
    done = copied(tmp_path / "second", points.path, repair=True)
    assert done.exit_code == 0 and done.unrepaired == []
    check_verified(points.path, at_least=set(ids(tmp_path / "second")))
    check(points.path, points)


@pytest.mark.parametrize("second", [False, True])
def test_an_index_that_is_stored_twice_comes_from_its_twin(
    stored: tuple[Stored, Any], tmp_path: Path, second: bool
) -> None:
    points, _ = stored
    target = tmp_path / "second"
    with Repository.open(points.path) as repository:
        (new,) = consolidate(repository, repository.catalog.points()[0]).created
    stream = new.streams[0]
    name = (names.index_copy if second else names.index)(stream.disk_id, stream.stream_id)
    good = (points.path / name).read_bytes()
    # The source's own copy is damaged: the other one is taken, and the damage is named.
    (points.path / name).write_bytes(bytes(len(good)))
    done = copied(points.path, target)
    assert (done.behind, len(done.damage), done.exit_code) == (0, 1, 3)
    assert (target / name).read_bytes() == good
    # Neither object of the source is good: the twin in the target is.
    (points.path / names.index(stream.disk_id, stream.stream_id)).unlink()
    (points.path / names.index_copy(stream.disk_id, stream.stream_id)).unlink()
    (target / name).unlink()
    done = copied(points.path, target, repair=True)
    assert [each.name for each in done.repaired] == [name] and done.unrepaired == []
    assert (target / name).read_bytes() == good
