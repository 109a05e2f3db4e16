# SPDX-License-Identifier: GPL-2.0-or-later
"""A new host of a bucket lists all points from one snapshot, and believes nothing of it where records say otherwise."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from pitr import times
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.model import Backup, VMName
from pitr.repository import (
    Repository,
    catalog_snapshots,
    names,
    record,
    removed_points,
    shown_catalog,
    tombstones,
)
from pitr.repository.store.lock_rules import Lock
from pitr.repository.store.s3 import S3Location
from tests.support import counted, s3
from tests.support.memory_bucket import GRACE
from tests.support.pitr import Pitr
from tests.support.points import FIRST_POINT, backup_of, fake_stream
from tests.support.s3 import host_at

VMS, POINTS = 3, 4


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Location:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "keeper"))
    place = s3.place()
    with Repository.create(place) as repository:
        for vm in range(VMS):
            for day in range(POINTS):
                commit(repository, vm, day)
    return place


def commit(repository: Repository, vm: int, day: int) -> Backup:
    """Store a record, and the note before it."""
    from pitr.repository import commit_notes

    of_vm = VMName(f"00000000-0000-4000-8000-{vm:012}", f"vm{vm}")
    backup = backup_of([fake_stream(vm)], vm=of_vm, point=FIRST_POINT + timedelta(days=day))
    commit_notes.add(repository.store, backup)
    repository.store.create(names.record(of_vm.id, backup.point, backup.backup_id), record.encode(backup))
    return backup


def snapshot(location: S3Location) -> str:
    with Repository.open(location) as repository:
        name = catalog_snapshots.store_snapshot(repository)
    assert name is not None
    return name


def new_host(location: S3Location, tmp_path: Path) -> Pitr:
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    return host_at(location, tmp_path / "new")


def ids(host: Pitr, *words: str) -> set[str]:
    return {each["backup_id"] for each in host.json("list", *words)["points"]}


def stored_ids(location: S3Location) -> set[str]:
    with Repository.open(location) as repository:
        found = {names.backup_of_record(name) for name in repository.store.list(names.BACKUPS)}
    return {each for each in found if each is not None}


@pytest.fixture
def of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the repository count as a large one, whose names are not listed at once."""
    monkeypatch.setattr(shown_catalog, "_COMPARED_AT_ONCE", -1)


@pytest.mark.usefixtures("of_many")
def test_the_first_list_of_a_new_host_reads_one_snapshot_and_new_points_only(
    location: S3Location, tmp_path: Path
) -> None:
    name = snapshot(location)
    with Repository.open(location) as repository:
        new = commit(repository, 1, POINTS)
        of_new_vm = commit(repository, VMS, 0)
        known = repository.opened_catalog().again(new.vm.id).points(new.vm.id)
        removed_points.hide(repository, [known[-1]])
    host = new_host(location, tmp_path)
    with counted.requests() as made:
        shown = ids(host)
    assert shown == stored_ids(location) - {known[-1].backup_id}
    assert {new.backup_id, of_new_vm.backup_id} <= shown
    assert made.count(f"GET {name}") == 1
    # No list of all records, whose number of requests grows with the number of points.
    assert not [
        request for request in made if request.startswith("LIST backups/") or request == "GET backups"
    ]
    records = [request for request in made if request.startswith("GET backups/")]
    assert len(records) == 2
    assert len(made) - len(records) - 1 <= 20
    # The next list compares all names.
    with counted.requests() as made:
        assert ids(host) == shown
    assert "LIST backups" in made


def test_a_removed_point_that_was_taken_back_or_swept_since_is_shown_as_it_is_now(
    location: S3Location, tmp_path: Path, of_many: None
) -> None:
    with Repository.open(location) as repository:
        points = repository.catalog.points("00000000-0000-4000-8000-000000000000")
        removed_points.hide(repository, points[-3:])
    snapshot(location)
    with Repository.open(location) as repository:
        back, swept, _ = points[-3:]
        removed_points.bring_back(repository, [back])
        repository.store.delete(names.record(swept.vm.id, swept.point, swept.backup_id))
        tombstones.remove(repository.store, swept.vm.id, swept.backup_id)
    host = new_host(location, tmp_path)
    assert ids(host) == stored_ids(location) - {points[-1].backup_id}
    assert ids(host, "--removed") == {points[-1].backup_id}


Forge = Callable[[Repository, sqlite3.Connection], object]


def _forged(location: S3Location, change: Forge, *, later: timedelta = timedelta(seconds=1)) -> str:
    """Add a snapshot with a right name that an intruder made of the newest one."""
    with Repository.open(location) as repository:
        store = repository.store
        newest = catalog_snapshots.found(store, is_sealed=False)[0]
        path = store.scratch_file()
        path.write_bytes(
            zstandard.ZstdDecompressor().decompressobj().decompress(store.read(newest.name, limit=1 << 24))
        )
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA trusted_schema = ON")
            change(repository, connection)
            connection.commit()
        data = zstandard.ZstdCompressor().compress(path.read_bytes())
        begun = times.to_object_name(newest.begun + later)
        name = f"catalogs/{begun}-{blake3(data).hexdigest()}.db.zst"
        store.create(name, data)
    return name


def _sql(text: str) -> Forge:
    return lambda _, connection: connection.executescript(text)


_UNUSABLE: dict[str, Forge] = {
    "of another repository": _sql(
        "UPDATE snapshot SET repository_id = '6b4c0f3e-8d3f-4a55-9a34-1d2f6c0b7a10'"
    ),
    "of another version": _sql("PRAGMA user_version = 7"),
    "with a view in place of a table": _sql(
        "ALTER TABLE name_row RENAME TO x; CREATE VIEW name_row AS SELECT * FROM x"
    ),
    "with a trigger": _sql("CREATE TRIGGER t AFTER INSERT ON vm_row BEGIN DELETE FROM point_row; END"),
    "with a kind that does not exist": _sql("UPDATE point_row SET kind = 9"),
    "with text for a size": _sql("UPDATE stream_row SET size = 'x'"),
    "with an id that leaves the folder": _sql("UPDATE vm_row SET id = '../../x' || number"),
    "with streams of no point": _sql("UPDATE stream_row SET point = point + 1000"),
    "with settings that are code": _sql("UPDATE stream_row SET settings = '[1, 2]'"),
    "with a time out of range": _sql("UPDATE point_row SET point = 1 << 62"),
}


@pytest.mark.usefixtures("of_many")
def test_a_snapshot_that_cannot_be_right_is_not_used(location: S3Location, tmp_path: Path) -> None:
    good = snapshot(location)
    every = stored_ids(location)
    # A host tries a few only, so each is tried alone.
    for what, change in _UNUSABLE.items():
        forged = _forged(location, change)
        host = new_host(location, tmp_path)
        with counted.requests() as made:
            assert ids(host) == every, what
        assert f"GET {forged}" in made and f"GET {good}" in made, what
        with Repository.open(location) as repository:
            repository.store.delete(forged)


@pytest.mark.usefixtures("of_many")
def test_a_damaged_snapshot_is_not_used_and_the_records_are_read_instead(
    location: S3Location, tmp_path: Path
) -> None:
    name = snapshot(location)
    every = stored_ids(location)
    with Repository.open(location) as repository:
        data = repository.store.read(name, limit=1 << 24)
        repository.store.delete(name)
        whole = zstandard.ZstdCompressor().compress(bytes(1 << 28))
        cut = data[:-5]
        for bad, stored in (
            (name, bytes((data[0] ^ 1,)) + data[1:]),
            (name.replace(names_digest(name), blake3(cut).hexdigest()), cut),
            (name.replace(names_digest(name), blake3(whole).hexdigest()), whole),
        ):
            repository.store.create(bad, stored)
    with counted.requests() as made:
        assert ids(new_host(location, tmp_path)) == every
    assert len([each for each in made if each.startswith("GET backups/")]) == len(every)
    assert len([each for each in made if each.startswith("GET catalogs/")]) == 3


def names_digest(name: str) -> str:
    return name.split("-")[1].partition(".")[0]


def test_records_beat_a_snapshot_that_hides_points_and_adds_others(
    location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot(location)
    every = stored_ids(location)

    def forge(repository: Repository, connection: sqlite3.Connection) -> None:
        connection.executescript("""
            DELETE FROM point_row WHERE number IN (SELECT min(number) FROM point_row GROUP BY vm);
            DELETE FROM stream_row WHERE point NOT IN (SELECT number FROM point_row);
            DELETE FROM left_out_row WHERE point NOT IN (SELECT number FROM point_row);
            UPDATE point_row SET backup_id = zeroblob(16) WHERE number = (SELECT max(number) FROM point_row);
            UPDATE point_row SET vm_name = 'lie', data_bytes = 7;
        """)

    _forged(location, forge)
    host = new_host(location, tmp_path)
    assert ids(host) == every
    # The first list of a large repository may be wrong. No later list is, and nothing else ever uses a snapshot.
    monkeypatch.setattr(shown_catalog, "_COMPARED_AT_ONCE", -1)
    host = new_host(location, tmp_path)
    assert ids(host) != every
    assert ids(host) == every
    assert {each["vm"]["name"] for each in host.json("list", "vm1")["points"]} == {"vm1"}
    assert not host.json("catalog", "check")["differences"]
    host = new_host(location, tmp_path)
    with Repository.open(replace(location)) as repository:
        assert {backup.backup_id for backup in repository.catalog.points()} == every
        assert not [backup for backup in repository.catalog.points() if backup.vm.name == "lie"]


@pytest.mark.usefixtures("of_many")
def test_an_old_snapshot_gives_what_all_names_confirm(location: S3Location, tmp_path: Path) -> None:
    snapshot(location)
    with Repository.open(location) as repository:
        [gone, *_] = repository.catalog.points("00000000-0000-4000-8000-000000000002")
        repository.store.delete(names.record(gone.vm.id, gone.point, gone.backup_id))
        newest = catalog_snapshots.found(repository.store, is_sealed=False)[0]
        data = repository.store.read(newest.name, limit=1 << 24)
        repository.store.delete(newest.name)
        old = times.to_object_name(newest.begun - timedelta(hours=20))
        repository.store.create(f"catalogs/{old}-{newest.digest}.db.zst", data)
    # A point that was hidden after the snapshot can have been swept since.
    host = new_host(location, tmp_path)
    assert ids(host) == stored_ids(location) | {gone.backup_id}
    assert ids(host) == stored_ids(location)


def test_a_restore_on_a_new_host_reads_the_records_of_its_vm_only(
    location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pitr.repository import cached_catalog

    monkeypatch.setattr(cached_catalog, "_FEW_VMS", 1)
    snapshot(location)
    host = new_host(location, tmp_path)
    for name in ("vm2", "00000000-0000-4000-8000-000000000002"):
        host = new_host(location, tmp_path)
        with counted.requests() as made:
            points = host.json("list", name)["points"]
        assert len(points) == POINTS
        records = [each for each in made if each.startswith("GET backups/")]
        assert len(records) == POINTS
        assert all("000000000002/" in each for each in records)


def test_a_prune_stores_snapshots_and_keeps_the_two_newest(location: S3Location) -> None:
    told: list[str] = []

    def pruned() -> list[str]:
        with Repository.open(location) as repository:
            prune(repository, Retention(last=10), [], notify=told.append)
            return sorted(repository.store.list(names.CATALOGS))

    [first] = pruned()
    assert pruned() == [first]
    stored = [first]
    for vm in range(3):
        with Repository.open(location) as repository:
            commit(repository, vm, POINTS)
        before, stored = stored, pruned()
        assert len(stored) == 2 and len(set(stored) & set(before)) == 1
    assert not told


def test_a_folder_needs_no_snapshot(tmp_path: Path) -> None:
    with Repository.create(tmp_path / "repository", grace=timedelta(days=3)) as repository:
        prune(repository, Retention(last=1), [], notify=lambda text: None)
        assert not list(repository.store.list(names.CATALOGS))
        assert repository.catalog.points() == []
    assert not os.path.lexists(tmp_path / "repository" / "catalogs")
    assert not os.path.lexists(tmp_path / "repository" / "catalog.db.whole")


def test_who_locks_objects_gets_every_point_in_the_first_list(
    location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_many: None
) -> None:
    """An intruder with the writer's keys could hide points with a false snapshot."""
    snapshot(location)
    _forged(location, _sql("DELETE FROM stream_row; DELETE FROM left_out_row; DELETE FROM point_row"))
    with Repository.open(location) as repository:
        for note in list(repository.store.list(names.COMMITS)):
            repository.store.delete(note)
    assert not ids(new_host(location, tmp_path))
    monkeypatch.setattr(
        Repository,
        "lock",
        property(lambda self: Lock("compliance", GRACE), lambda self, lock: None),
        raising=False,
    )
    assert ids(new_host(location, tmp_path)) == stored_ids(location)
