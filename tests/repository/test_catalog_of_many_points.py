# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog stays small with many points, shows readable values, and nothing holds all points."""

from __future__ import annotations

import sqlite3
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from blake3 import blake3

from pitr.jobs import documents
from pitr.model import Backup, Kind, Part, StoredObject, Stream, VMName
from pitr.repository import Repository, names, record
from pitr.repository.catalog import Catalog, contents, overview
from pitr.repository.catalog.in_turn import InTurn
from pitr.repository.catalog.packed import sortable_time
from tests.support.points import FIRST_POINT, VM, backup_of, fake_stream

pytestmark = pytest.mark.usefixtures("quick_disk")

VMS, POINTS = 20, 100


def _digest(text: str) -> StoredObject:
    return StoredObject(123_456, blake3(text.encode()).hexdigest())


def history(number: int, points: int = POINTS, *, every: int = 50) -> list[Backup]:
    """Backups as they are: UUIDs, digests that differ, and a full at times."""
    vm = VMName(str(uuid.UUID(int=number + 1)), f"server{number}.example.com")
    made: list[Backup] = []
    for at in range(points):
        full = at % every == 0
        before = None if full else made[-1]
        stream = fake_stream(number, parent=before.streams[0].stream_id if before else None)
        stream = replace(
            stream, blob=_digest(f"{stream.stream_id} blob"), index=_digest(f"{stream.stream_id} index")
        )
        backup = backup_of(
            [stream],
            vm=vm,
            point=FIRST_POINT + timedelta(days=at, seconds=number),
            parent_id=before.backup_id if before else None,
        )
        made.append(replace(backup, left_out=(), configuration=_digest(backup.backup_id)))
    return made


def entry(backup: Backup) -> tuple[Backup, str, StoredObject]:
    return (
        backup,
        names.record(backup.vm.id, backup.point, backup.backup_id),
        _digest(f"{backup.backup_id} record"),
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Catalog, Path, list[Backup]]]:
    path = tmp_path_factory.mktemp("many") / "catalog.db"
    backups: list[Backup] = []
    with Catalog.create(path, quick=True) as catalog:
        for number in range(VMS):
            made = history(number)
            catalog.add([entry(backup) for backup in made])
            backups += made
        catalog.finish()
        yield catalog, path, backups


def test_a_point_takes_less_than_a_kilobyte(many: tuple[Catalog, Path, list[Backup]]) -> None:
    _, path, backups = many
    assert path.stat().st_size / len(backups) < 1000


def test_a_catalog_that_grows_by_one_point_a_night_stays_small(tmp_path: Path) -> None:
    histories = [history(number, 15) for number in range(10)]
    with Catalog.create(tmp_path / "catalog.db") as catalog:
        for night in zip(*histories, strict=True):
            for backup in night:
                catalog.add([entry(backup)])
        assert sorted(catalog.points(), key=lambda backup: backup.backup_id) == sorted(
            (backup for made in histories for backup in made), key=lambda backup: backup.backup_id
        )
    assert (tmp_path / "catalog.db").stat().st_size / 150 < 1700


def test_queries_show_ids_digests_times_and_names_as_text(
    many: tuple[Catalog, Path, list[Backup]],
) -> None:
    catalog, _, backups = many
    for backup in (backups[0], backups[777]):
        stream, (_, name, stored) = backup.streams[0], entry(backup)
        columns = "backup_id, vm_id, vm_name, kind, parent_id, checkpoint_id, record_name, record_digest"
        _, rows = catalog.query(f"SELECT {columns} FROM point WHERE backup_id = '{backup.backup_id}'")  # noqa: S608
        assert rows == [
            (
                backup.backup_id,
                backup.vm.id,
                backup.vm.name,
                backup.kind.value,
                backup.parent_id,
                backup.checkpoint_id,
                name,
                stored.digest,
            )
        ]
        joined = "FROM stream JOIN point USING (backup_id) WHERE stream_id"
        _, rows = catalog.query(
            f"SELECT disk_id, parent_stream_id, blob_digest, point, lo {joined} = '{stream.stream_id}'"
        )
        assert stream.blob is not None
        ((disk_id, parent, digest, point, lo),) = rows
        assert (disk_id, parent, digest) == (stream.disk_id, stream.parent_stream_id, stream.blob.digest)
        assert point.startswith(backup.point.strftime("%Y-%m-%dT%H:%M:%S."))
        assert lo < point


def test_look_ups_of_ids_and_vms_in_the_views_use_indexes(
    many: tuple[Catalog, Path, list[Backup]],
) -> None:
    path = many[1]
    with closing(sqlite3.connect(path)) as connection:
        for query in (
            "SELECT * FROM point WHERE backup_id = 'x'",
            "SELECT * FROM point WHERE vm_id = 'x'",
            "SELECT * FROM stream WHERE stream_id = 'x'",
            "SELECT * FROM stream WHERE backup_id = 'x'",
            "SELECT * FROM left_out WHERE backup_id = 'x'",
            "SELECT * FROM point WHERE backup_id BETWEEN 'a' AND 'b'",
        ):
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            assert not [step for step in plan if step.startswith("SCAN")], (query, plan)


@pytest.mark.parametrize(
    "backup_id", ["1c2d3e4f-0000-4000-8000-00000000abcd", "not-a-uuid", "ABCDEF01-0000-4000"]
)
def test_ids_of_any_form_are_found_and_come_back_unchanged(backup_id: str) -> None:
    made = backup_of([fake_stream()], backup_id=backup_id, vm=VMName("vm.1", "x"))
    made = replace(made, streams=(replace(made.streams[0], stream_id=f"{backup_id}.s", disk_id="disk.1"),))
    with Catalog.create(None) as catalog:
        catalog.add([entry(made)])
        assert catalog.get(backup_id) == made
        assert catalog.with_prefix(backup_id[:6]) == [made]
        assert catalog.owner_of(f"{backup_id}.s") == made
        assert catalog.newest_with_disk(["disk.1", "other"]) == made
        assert catalog.known_record(backup_id) == catalog.known("vm.1")[entry(made)[1]]


def test_times_before_and_after_the_epoch_are_the_same_in_all_forms() -> None:
    from datetime import UTC, datetime

    from pitr import times
    from pitr.repository.catalog.packed import packed_time, time_of

    for time in (
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ):
        assert time_of(packed_time(time)) == time
        assert sortable_time(packed_time(time)) == times.to_sortable(time)
        made = backup_of([fake_stream()], point=max(time, FIRST_POINT))
        with Catalog.create(None) as catalog:
            catalog.add([entry(made)])
            assert catalog.query("SELECT point, record_name FROM point")[1] == [
                (times.to_sortable(made.point), entry(made)[1])
            ]


def test_points_in_turn_are_the_points_in_order(many: tuple[Catalog, Path, list[Backup]]) -> None:
    catalog, _, backups = many
    whole = catalog.points()
    assert list(InTurn(catalog)) == whole and len(whole) == len(backups)
    since = FIRST_POINT + timedelta(days=90)
    assert list(InTurn(catalog, since=since)) == [each for each in whole if each.point >= since]
    assert list(InTurn(catalog, since=since, last=7)) == whole[:7]
    assert InTurn(catalog) and not InTurn(catalog, since=FIRST_POINT + timedelta(days=9999))


def test_points_of_one_time_are_in_the_order_of_their_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pitr.repository.catalog.in_turn._BATCH", 3)
    made: list[Backup] = []
    for _ in range(10):
        before = made[-1] if made else None
        parent = before.streams[0].stream_id if before else None
        made.append(backup_of([fake_stream(parent=parent)], parent_id=before.backup_id if before else None))
    with Catalog.create(None) as catalog:
        catalog.add([entry(backup) for backup in made])
        assert list(InTurn(catalog)) == made[::-1]
        assert list(InTurn(catalog, last=4)) == made[:-5:-1]


def test_a_list_of_all_points_takes_little_memory_for_each(
    many: tuple[Catalog, Path, list[Backup]], repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, _, backups = many
    monkeypatch.setattr("pitr.repository.catalog.in_turn._BATCH", 50)
    repository.catalog_path.unlink(missing_ok=True)
    with closing(sqlite3.connect(repository.catalog_path)) as copy:
        catalog.copy_into(copy)
    with Repository.open(repository.path) as again:
        for _ in documents.points_document(again, backups[0].vm.id)["points"]:
            """The modules are loaded."""
        tracemalloc.start()
        try:
            count = sum(1 for _ in documents.points_document(again, None)["points"])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == len(backups)
    assert peak / count < 600


def test_two_records_with_one_id_rebuild_to_the_first(repository: Repository) -> None:
    first = backup_of([fake_stream(1)], vm=VMName("vm-1", "one"))
    second = backup_of([fake_stream(2)], vm=VMName("vm-2", "two"), backup_id=first.backup_id)
    third = backup_of([fake_stream(3)], vm=VMName("vm-3", "three"))
    stolen = backup_of(
        [replace(fake_stream(4), stream_id=third.streams[0].stream_id)], vm=VMName("vm-4", "four")
    )
    for backup in (first, second, third, stolen):
        name = names.record(backup.vm.id, backup.point, backup.backup_id)
        repository.store.create(name, record.encode(backup))
    repository.rebuild_catalog()
    with Catalog.open(repository.catalog_path, read_only=True) as catalog:
        assert catalog.get(first.backup_id) == first
        assert catalog.owner_of(third.streams[0].stream_id) == third
        assert [vm.name for vm in catalog.vms()] == ["four", "one", "three"]
        assert catalog.points("vm-2") == []


def test_what_uses_the_frames_of_a_stream_is_known_without_a_search() -> None:
    full = backup_of([fake_stream()])
    used = full.streams[0]
    other = replace(fake_stream(7), parts=(Part(used.disk_id, used.stream_id, 5, _digest("blob")),))
    user = backup_of([other], vm=VMName("00000000-0000-4000-8000-00000000000f", "clone"))
    with Catalog.create(None) as catalog:
        catalog.add([entry(full), entry(user)])
        asked = [used.stream_id, other.stream_id, *(str(uuid.uuid4()) for _ in range(2000))]
        assert catalog.used_as_parts(asked) == {used.stream_id}
        assert contents.parts_named(catalog, used.disk_id) == {used.stream_id}
        assert catalog.dependants(used.stream_id) == sorted(
            [full.backup_id, user.backup_id], key=lambda each: each
        )
        catalog.remove([user.backup_id], lambda: None)
        assert catalog.used_as_parts(asked) == set()
        assert [vm.name for vm in catalog.vms()] == [VM.name]


def test_the_length_of_a_chain_counts_points_beyond_the_newest_and_stand_ins() -> None:
    made = history(1, 300, every=1000)
    with Catalog.create(None) as catalog:
        catalog.add([entry(backup) for backup in made])
        assert overview.chain_length(catalog, made[-1].backup_id) == 300
        assert overview.chain_length(catalog, made[99].backup_id) == 100
        assert overview.chain_length(catalog, "unknown") == 0
        synthetic = replace(
            made[250],
            backup_id=str(uuid.uuid4()),
            kind=Kind.SYNTHETIC,
            parent_id=None,
            stands_for=made[250].backup_id,
            streams=(_virtual(made[250].streams[0]),),
        )
        catalog.add([entry(synthetic)])
        catalog.remove([made[250].backup_id], lambda: None)
        assert overview.chain_length(catalog, made[-1].backup_id) == 50
        assert overview.missing_parents(catalog, made[0].vm.id) == []
        catalog.remove([synthetic.backup_id], lambda: None)
        assert overview.missing_parents(catalog, made[0].vm.id) == [made[250].backup_id]


def _virtual(stream: Stream) -> Stream:
    return replace(stream, stream_id=str(uuid.uuid4()), kind=Kind.SYNTHETIC, parent_stream_id=None, blob=None)


def test_a_vm_is_found_by_its_earlier_names_until_those_points_are_gone() -> None:
    old = backup_of([fake_stream()], vm=VMName(VM.id, "old"))
    new = backup_of([fake_stream()], vm=VMName(VM.id, "new"), point=FIRST_POINT + timedelta(days=1))
    with Catalog.create(None) as catalog:
        catalog.add([entry(new), entry(old)])
        assert catalog.vms() == catalog.vms_once_named("old") == [VMName(VM.id, "new")]
        catalog.remove([old.backup_id], lambda: None)
        assert catalog.vms_once_named("old") == []
        catalog.add([entry(old)])
        catalog.remove([new.backup_id], lambda: None)
        assert catalog.vms() == [VMName(VM.id, "old")] and catalog.vms_once_named("new") == []
