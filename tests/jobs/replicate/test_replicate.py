# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr replicate`: copies of repositories on other stores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import UsageError
from pitr.jobs import known_damage
from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.facts import facts_of
from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.repository import (
    Repository,
    marker,
    marks,
    names,
    notes,
    pending,
    removed_points,
    retired,
    successions,
)
from pitr.repository.location import Location
from pitr.repository.marks import Hold
from tests.support import s3
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import Stored, chain_of_three, change, check_verified, content

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


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damaged!")


def _blob(points: Stored, number: int) -> Path:
    """The blob of the larger disk in the oldest, second or newest point."""
    with Repository.open(points.path) as repository:
        backup = repository.catalog.points()[2 - number]
    return max(
        (points.path / names.blob(each.disk_id, each.stream_id) for each in backup.streams),
        key=lambda path: path.stat().st_size,
    )


def test_damage_in_the_source_is_named_and_not_copied(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, _ = stored
    whole = ids(points.path)
    _damage(_blob(points, 1))
    done = copied(points.path, tmp_path / "second")
    assert (done.points, done.behind, done.exit_code) == (1, 2, 3)
    (damage,) = done.damage
    assert damage.kind == "corrupt" and set(damage.points_lost) == set(whole[:2])
    assert ids(tmp_path / "second") == whole[2:]
    check_verified(tmp_path / "second", at_least={whole[2]})
    # The source knows it from now on.
    with Repository.open(points.path) as repository:
        assert {loss.finding.backup_id for loss in known_damage.losses(repository)} == {whole[1]}


@pytest.mark.parametrize("harm", ["missing blob", "short blob", "missing index", "record", "missing record"])
def test_any_damage_keeps_only_what_needs_the_object(
    stored: tuple[Stored, Any], tmp_path: Path, harm: str
) -> None:
    points, _ = stored
    whole = ids(points.path)
    with Repository.open(points.path) as repository:
        backup = repository.catalog.points()[0]
        stream = backup.streams[0]
        blob = points.path / names.blob(stream.disk_id, stream.stream_id)
        index = points.path / names.index(stream.disk_id, stream.stream_id)
        record = points.path / names.record(backup.vm.id, backup.point, backup.backup_id)
    if harm == "missing blob":
        blob.unlink()
    elif harm == "short blob":
        blob.write_bytes(blob.read_bytes()[:-1])
    elif harm == "missing index":
        index.unlink()
    elif harm == "record":
        _damage(record)
    else:
        record.unlink()
    done = copied(points.path, tmp_path / "second")
    assert (done.points, done.behind, len(done.damage), done.exit_code) == (2, 1, 1, 3)
    assert ids(tmp_path / "second") == whole[1:]
    check_verified(tmp_path / "second", at_least=set(whole[1:]))


def test_a_lost_configuration_loses_no_point(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, _ = stored
    for file in (points.path / "configurations").iterdir():
        file.unlink()
    done = copied(points.path, tmp_path / "second")
    assert (done.points, done.behind, done.exit_code) == (3, 0, 3)
    assert {damage.what for damage in done.damage} == {"configuration"}
    check(tmp_path / "second", points)


def test_only_a_copy_of_the_source_or_an_empty_place_is_a_target(
    stored: tuple[Stored, Any], tmp_path: Path
) -> None:
    points, _ = stored
    with Repository.create(tmp_path / "other"):
        points.back_up(points.engine.add_vm("other", bytes(1 << 20)), tmp_path / "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("other", "full", "file", "first", "first/inside", "."):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UsageError):
            copied(points.path, tmp_path / target)
        assert sorted(tmp_path.rglob("*")) == before
    # A copy of a copy, and back.
    assert copied(points.path, tmp_path / "second").points == 3
    assert copied(tmp_path / "second", tmp_path / "third").points == 3
    assert copied(tmp_path / "third", points.path).points == 0
    with Repository.open(tmp_path / "third") as repository:
        assert repository.id != marker.read(repository.location, repository.store).origin


def test_a_prefix_with_other_things_is_refused(stored: tuple[Stored, Any]) -> None:
    points, _ = stored
    place = s3.place()
    s3.client(s3.server()).put_object(Bucket=place.bucket, Key=f"{place.prefix}/letter.txt", Body=b"mine")
    with pytest.raises(UsageError, match="not empty"):
        copied(points.path, place)


def test_a_dry_run_counts_and_changes_nothing(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, _ = stored
    planned = copied(points.path, tmp_path / "second", dry_run=True)
    assert not (tmp_path / "second").exists()
    done = copied(points.path, tmp_path / "second")
    assert (planned.points, planned.objects, planned.bytes) == (done.points, done.objects, done.bytes)
    assert (planned.behind, planned.target_id, done.behind) == (3, None, 0)
    again = copied(points.path, tmp_path / "second", dry_run=True)
    assert (again.points, again.objects, again.behind) == (0, 0, 0)


def test_points_since_a_time_come_with_what_they_need(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, vm = stored
    full = points.back_up(vm, full=True)
    newest = points.back_up(vm)
    done = copied(points.path, tmp_path / "second", since=newest.point)
    assert (done.points, done.behind) == (2, 0)
    assert ids(tmp_path / "second") == [newest.backup_id, full.backup_id]
    check(tmp_path / "second", points)


def test_points_removed_in_the_source_stay(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, vm = stored
    copied(points.path, tmp_path / "second")
    before = ids(tmp_path / "second")
    full = points.back_up(vm, full=True)
    with Repository.open(points.path) as repository:
        prune(repository, Retention(last=1), repository.catalog.vms(), notify=pytest.fail)
    assert ids(points.path) == [full.backup_id]
    assert copied(points.path, tmp_path / "second").points == 1
    assert ids(tmp_path / "second") == [full.backup_id, *before]
    check_verified(tmp_path / "second", at_least=set(before))


def test_a_consolidated_point_is_copied_with_its_parts(stored: tuple[Stored, Any], place: Location) -> None:
    points, vm = stored
    with Repository.open(points.path) as repository:
        last = repository.catalog.points()[0]
        (new,) = consolidate(repository, last).created
        prune(repository, Retention(last=1), repository.catalog.vms(), notify=pytest.fail)
    points.contents[new.backup_id] = points.contents[last.backup_id]
    change(vm, random.Random(3))
    later = points.back_up(vm)
    with Repository.open(points.path) as repository:
        newest, base = repository.catalog.points()
    assert newest.backup_id == later.backup_id and any(stream.parts for stream in base.streams)
    points.contents[base.backup_id] = points.contents[last.backup_id]
    done = copied(points.path, place)
    assert (done.points, done.behind) == (2, 0)
    assert ids(place) == [later.backup_id, base.backup_id]
    check(place, points)


def test_holds_notes_and_what_is_known_of_disks_go_along(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, vm = stored
    with Repository.open(points.path) as repository:
        first = repository.catalog.points()[-1]
        marks.hold(repository.store, first, Hold(None))
        marks.note(repository.store, first, "before the upgrade")
        notes.distrust(repository.store, vm.id, "disk-1")
        successions.add(repository.store, vm.id, "disk-1", "disk-2")
        retired.add(repository.store, first.vm)
        pending.add(repository.store, vm.id, "running")
    copied(points.path, tmp_path / "second")
    with Repository.open(tmp_path / "second") as copy:
        assert facts_of(copy, first).marks == marks.Marks(Hold(None), "before the upgrade")
        assert notes.distrusted(copy.store, vm.id) == {"disk-1"}
        assert successions.of_vm(copy.store, vm.id).pairs == {("disk-1", "disk-2")}
        assert retired.ids(copy.store) == {vm.id}
        # A host that takes over must not end the backups of the first one.
        assert list(pending.of_vm(copy.store, vm.id)) == []
    with Repository.open(points.path) as repository:
        marks.hold(repository.store, first, None)
        notes.trust_again(repository.store, vm.id, "disk-1")
        retired.remove(repository.store, vm.id)
    copied(points.path, tmp_path / "second")
    with Repository.open(tmp_path / "second") as copy:
        assert facts_of(copy, first).marks == marks.Marks(None, "before the upgrade")
        assert notes.distrusted(copy.store, vm.id) == set()
        assert retired.ids(copy.store) == set()


def test_points_that_wait_for_their_sweep_are_not_copied(
    stored: tuple[Stored, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    points, vm = stored
    copied(points.path, first := s3.place())
    before = ids(first)
    with Repository.open(first) as repository:
        newest = repository.catalog.points()[0]
        removed_points.hide(repository, [newest])
    done = copied(first, tmp_path / "second")
    assert (done.points, done.behind, ids(tmp_path / "second")) == (2, 0, before[1:])
    # A point removed in the target only stays removed as long as it waits for its sweep.
    assert copied(points.path, first).points == 0
    assert ids(first) == before[1:]
    # What is based on it waits, too.
    change(vm, random.Random(4))
    later = points.back_up(vm)
    assert later.parent_id == newest.backup_id
    told: list[str] = []
    with Repository.open(points.path) as repository:
        done = replicate(repository, first, ReplicateOptions(), ReplicateWatch(told.append))
    assert (done.points, done.behind) == (0, 1) and "undo-prune" in told[0]
    with Repository.open(first) as repository:
        removed_points.bring_back(repository, [newest])
    assert copied(points.path, first).points == 1
    assert ids(first) == [later.backup_id, *before]
    check(first, points)


def test_a_new_repository_without_points_becomes_a_copy(stored: tuple[Stored, Any], tmp_path: Path) -> None:
    points, _ = stored
    with Repository.create(tmp_path / "second") as repository:
        second = repository.id
    copied(points.path, tmp_path / "second", dry_run=True)
    done = copied(points.path, tmp_path / "second")
    assert (done.points, done.target_id) == (3, second)
    # Both ways, and from there on.
    assert copied(points.path, tmp_path / "second").exit_code == 0
    assert copied(tmp_path / "second", points.path).exit_code == 0
    assert copied(tmp_path / "second", tmp_path / "third").points == 3
    assert ids(tmp_path / "second") == ids(points.path) == ids(tmp_path / "third")
