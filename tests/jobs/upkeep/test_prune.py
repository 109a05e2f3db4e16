# SPDX-License-Identifier: GPL-2.0-or-later
"""Prune: what is kept, what it needs, what is removed and when; never while somebody reads."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import BusyError, RepositoryError
from pitr.jobs import known_damage
from pitr.jobs.upkeep.prune import children_first, prune
from pitr.jobs.upkeep.pruned import Pruned
from pitr.jobs.upkeep.retention import Retention, kept, kept_by
from pitr.model import Backup, Kind, Mode, VMName
from pitr.repository import Repository, names
from pitr.repository.damage import Damage
from tests.support.memory_engine import EngineFunctions, MemoryEngine, MemoryVM
from tests.support.stored_points import (
    Stored,
    chain_of_three,
    change,
    check_contents,
    check_verified,
    unnamed_files,
)


def _point(number: int, moment: datetime, parent: int | None = None) -> Backup:
    return Backup(
        backup_id=str(number),
        vm=VMName("1", "web1"),
        kind=Kind.FULL if parent is None else Kind.INCREMENTAL,
        reason=None,
        point=moment,
        lo=moment,
        parent_id=None if parent is None else str(parent),
        checkpoint_id=None,
        from_checkpoint_id=None,
        mode=Mode.LIVE,
        consistency="unknown",
        streams=(),
        left_out=(),
        duration_ms=0,
        pitr_version="0",
    )


def _kept(points: list[Backup], **rules: int | timedelta) -> set[int]:
    newest_first = sorted(points, key=lambda one: one.point, reverse=True)
    return {int(one.backup_id) for one in kept(newest_first, Retention(**rules), UTC)}  # type: ignore[arg-type]


def _fulls(*times: str) -> list[Backup]:
    return [_point(number, datetime.fromisoformat(f"{time}+00:00")) for number, time in enumerate(times)]


def test_rules_keep_the_newest_of_each_period() -> None:
    points = _fulls(
        "2020-05-31T22:00",  # 0
        "2020-06-01T10:00",  # 1: Monday
        "2020-06-01T22:00",  # 2
        "2020-06-07T22:00",  # 3: Sunday
        "2020-06-08T10:00",  # 4: Monday
        "2020-06-08T22:00",  # 5
    )
    assert _kept(points, last=2) == {4, 5}
    assert _kept(points, daily=2) == {3, 5}
    assert _kept(points, weekly=2) == {3, 5}
    assert _kept(points, weekly=3) == {0, 3, 5}
    assert _kept(points, monthly=2) == {0, 5}
    assert _kept(points, within=timedelta(days=1)) == {3, 4, 5}
    assert _kept(points, last=1, monthly=2) == {0, 5}


def test_days_begin_at_local_midnight() -> None:
    points = _fulls("2020-06-29T21:30", "2020-06-29T22:30")[::-1]
    berlin = ZoneInfo("Europe/Berlin")
    assert len(kept(points, Retention(daily=2), UTC)) == 1
    assert len(kept(points, Retention(daily=2), berlin)) == 2


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_whatever_is_kept_is_kept_with_all_that_it_stands_on(
    drawn: list[tuple[int, bool]], last: int, daily: int
) -> None:
    start = datetime(2020, 6, 1, tzinfo=UTC)
    points: list[Backup] = []
    for number, (hours, full) in enumerate(sorted(drawn)):
        parent = None if full or not points else number - 1
        points.append(_point(number, start + timedelta(hours=hours, seconds=number), parent))
    keep = kept(points[::-1], Retention(last=last, daily=daily), UTC)
    ids = {one.backup_id for one in keep}
    assert points[-1].backup_id in ids
    assert all(one.parent_id is None or one.parent_id in ids for one in keep)


def test_rules_do_not_count_damaged_points() -> None:
    points = _fulls("2020-06-01T22:00", "2020-06-02T10:00", "2020-06-02T22:00", "2020-06-03T22:00")[::-1]
    damaged = {"3", "2"}
    last = kept_by(points, Retention(last=1), UTC, damaged)
    assert last == {"3": ["keep-last 1 (damaged, not counted)"], "1": ["keep-last 1"]}
    daily = kept_by(points, Retention(daily=2), UTC, damaged)
    assert {name for name, (rule,) in daily.items() if rule == "keep-daily 2"} == {"1", "0"}
    assert kept_by(points, Retention(within=timedelta(hours=1)), UTC, damaged).keys() == {"3", "1"}


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.booleans()), min_size=1, max_size=30),
    st.builds(
        Retention,
        last=st.none() | st.integers(1, 5),
        daily=st.none() | st.integers(1, 5),
        within=st.just(timedelta(days=1)),
    ),
)
def test_the_newest_good_point_always_stays_and_damage_removes_nothing(
    drawn: list[tuple[int, bool, bool]], retention: Retention
) -> None:
    start = datetime(2020, 6, 1, tzinfo=UTC)
    points: list[Backup] = []
    for number, (hours, full, _) in enumerate(sorted(drawn)):
        parent = None if full or not points else number - 1
        points.append(_point(number, start + timedelta(hours=hours, seconds=number), parent))
    damaged = {str(number) for number, (_, _, bad) in enumerate(sorted(drawn)) if bad}
    good = [one for one in points if one.backup_id not in damaged]
    stay = kept_by(points[::-1], retention, UTC, damaged)
    # As many good points as if the damaged ones did not exist, and all points that stayed before the damage.
    assert set(kept_by(good[::-1], retention, UTC)) <= set(stay)
    assert set(kept_by(points[::-1], retention, UTC)) <= set(stay)
    assert not good or good[-1].backup_id in stay


def test_prune_keeps_the_newest_good_point_beside_a_damaged_one(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm, old, new = _two_chains(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        full = repository.record_of(new[0])
        lost = full.streams[0]
        damage = Damage(full.backup_id, lost.disk_id, lost.stream_id, "missing", "blob", "it is missing")
        known_damage.remember(repository, vm.id, "verify", [damage], print)
    done = _prune(stored.path, vm, Retention(last=1), dry_run=True)
    assert done.removed == []
    assert done.kept_by[old[-1]] == ["keep-last 1"]
    assert done.kept_by[new[-1]] == ["keep-last 1 (damaged, not counted)"]


def _two_chains(path: Path, memory_engine: MemoryEngine) -> tuple[Stored, MemoryVM, list[str], list[str]]:
    stored, vm = chain_of_three(path, memory_engine)
    old = list(stored.contents)
    stored.back_up(vm, full=True)
    change(vm, random.Random(2))
    stored.back_up(vm)
    return stored, vm, old, [one for one in stored.contents if one not in old]


def _prune(path: Path, vm: MemoryVM, retention: Retention, **options: object) -> Pruned:
    """Prune without consolidation, so that points stay on which others are based."""
    said: list[str] = []
    with Repository.open(path) as repository:
        return prune(
            repository,
            retention,
            [VMName(vm.id, vm.name)],
            notify=said.append,
            consolidate=False,
            **options,  # type: ignore[arg-type]
        )


def test_a_dry_run_names_what_is_removed_then_and_removes_nothing(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm, old, new = _two_chains(tmp_path / "repository", memory_engine)
    before = _objects(stored.path)
    planned = _prune(stored.path, vm, Retention(last=1), dry_run=True)
    assert _objects(stored.path) == before
    size_before = sum(path.stat().st_size for path in before)

    done = _prune(stored.path, vm, Retention(last=1))
    assert listed(done) == listed(planned)
    # The newest is an incremental: its full stays with it.
    assert {one.backup_id for one in done.kept} == set(new)
    assert {one.backup_id for one in done.removed} == set(old)
    left = [path for path in before if path.exists()]
    assert done.freed_bytes == size_before - sum(path.stat().st_size for path in left)
    assert check_verified(stored.path, at_least=set(new)) == set(new)
    assert unnamed_files(stored.path) == set()
    check_contents(stored.path, stored)
    with Repository.open(stored.path) as repository:
        assert repository.check_catalog().differences == ()
    assert _prune(stored.path, vm, Retention(last=1)).removed == []


def _objects(path: Path) -> list[Path]:
    folders = ("backups", "blobs", "indexes", "configurations")
    return sorted(file for folder in folders for file in (path / folder).rglob("*") if file.is_file())


def listed(done: Pruned) -> tuple[list[str], list[str], list[str], int]:
    return (
        [one.backup_id for one in done.removed],
        [one.backup_id for one in done.kept],
        done.unreferenced,
        done.freed_bytes,
    )


def test_what_no_record_names_goes_after_the_grace_time(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, vm, _, _ = _two_chains(tmp_path / "repository", memory_engine)
    blob = next(stored.path.glob("blobs/*/*.sparse.zst"))
    orphan = blob.with_name("99999999-9999-4999-8999-999999999999.sparse.zst")
    shutil.copy(blob, orphan)
    name = orphan.relative_to(stored.path).as_posix()
    os.utime(orphan, (time.time() - 80_000,) * 2)
    assert _prune(stored.path, vm, Retention(last=9)).unreferenced == []
    os.utime(orphan, (time.time() - 90_000,) * 2)
    assert _prune(stored.path, vm, Retention(last=9), dry_run=True).unreferenced == [name]
    assert orphan.exists()
    done = _prune(stored.path, vm, Retention(last=9))
    assert (done.unreferenced, list(done.removed), orphan.exists()) == ([name], [], False)
    check_contents(stored.path, stored)


def test_nothing_is_called_unnamed_while_a_record_cannot_be_read(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm, _, _ = _two_chains(tmp_path / "repository", memory_engine)
    record = sorted(stored.path.glob("backups/*/*.json"))[-1]
    whole = record.read_bytes()
    (stored.path / "catalog.db").unlink()
    record.write_bytes(whole[:-1])
    # To the catalog this record never was; its streams must not be taken for rubbish.
    done = _prune(stored.path, vm, Retention(last=9), grace=timedelta(seconds=-1))
    assert done.unreferenced == []
    record.write_bytes(whole)
    assert check_verified(stored.path, at_least=set(stored.contents)) == set(stored.contents)


def test_without_any_record_nothing_is_removed(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, vm, _, _ = _two_chains(tmp_path / "repository", memory_engine)
    shutil.rmtree(stored.path / "backups")
    (stored.path / "catalog.db").unlink()
    assert _prune(stored.path, vm, Retention(last=1), grace=timedelta(seconds=-1)).unreferenced == []
    assert [len(list(stored.path.glob(f"{kind}/*/*"))) for kind in ("blobs", "indexes")] == [2 * 5, 2 * 5]


def test_only_the_vm_asked_for_is_pruned(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, _vm, _, _ = _two_chains(tmp_path / "repository", memory_engine)
    other = memory_engine.add_vm("db1", bytes(1 << 16))
    for _ in range(3):
        stored.back_up(other, full=True)
    done = _prune(stored.path, other, Retention(last=1))
    assert len(done.removed) == 2
    assert {one.vm.name for one in [*done.removed, *done.kept]} == {"db1"}
    check_contents(stored.path, stored)


def test_prune_waits_for_nobody_and_removes_nothing_that_is_read(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm, old, _ = _two_chains(tmp_path / "repository", memory_engine)
    name = VMName(vm.id, vm.name)
    with Repository.open(stored.path) as reader:
        with reader.reading_vm(name), reader.reading_vm(name):
            _check_busy(_prune(stored.path, vm, Retention(last=1)), rf"process {os.getpid()} on .*, since 2")
        with reader.lock_vm(name):
            _check_busy(_prune(stored.path, vm, Retention(last=1)), f"process {os.getpid()}")
        with reader.removing_from_vm(name), pytest.raises(BusyError), reader.reading_vm(name):
            raise AssertionError("points are read while they are removed")
    assert check_verified(stored.path, at_least=set(old)) == set(stored.contents)


def _check_busy(done: Pruned, message: str) -> None:
    (busy,) = done.busy
    assert re.search(message, busy.message)
    assert (list(done.removed), list(done.kept), done.exit_code) == ([], [], BusyError.exit_code)


def test_other_vms_are_pruned_while_one_is_busy_or_fails(
    tmp_path: Path, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, vm, old, _ = _two_chains(tmp_path / "repository", memory_engine)
    vms = [memory_engine.add_vm(name, bytes(1 << 16)) for name in ("busy1", "broken1", "db1")]
    for other in vms:
        for _ in range(3):
            stored.back_up(other, full=True)
    busy, broken, db = (VMName(other.id, other.name) for other in vms)
    with Repository.open(stored.path) as reader, Repository.open(stored.path) as repository:
        delete = repository.store.delete
        broken_records = sorted(repository.store.list(names.records_of(broken.id)))

        def failing(name: str) -> None:
            if name == broken_records[0]:
                raise RepositoryError("cannot delete: Input/output error")
            delete(name)

        monkeypatch.setattr(repository.store, "delete", failing)
        with reader.reading_vm(busy):
            done = prune(
                repository,
                Retention(last=1),
                [busy, broken, VMName(vm.id, vm.name), db],
                consolidate=False,
                notify=lambda line: None,
            )
    assert [each.vm for each in done.busy] == [busy]
    assert [each.vm for each in done.failed] == [broken]
    assert done.exit_code == 1
    # The result is true for the VM that failed in the middle, too.
    removed = [backup for backup in done.removed if backup.vm == broken]
    kept_there = [backup for backup in done.kept if backup.vm == broken]
    assert len(removed) == 1 and len(kept_there) == 2
    assert {one.backup_id for one in done.removed if one.vm.id == vm.id} == set(old)
    assert len([one for one in done.removed if one.vm == db]) == 2
    assert check_verified(stored.path, at_least=set()) == set(stored.contents) - {
        one.backup_id for one in done.removed
    }


def test_each_kept_point_has_its_reasons(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, vm, old, new = _two_chains(tmp_path / "repository", memory_engine)
    done = _prune(stored.path, vm, Retention.of({"keep_last": 1, "keep_within": "14d"}), dry_run=True)
    assert done.kept_by[new[1]] == ["keep-last 1", "keep-within 14d"]
    assert done.kept_by[old[0]] == ["keep-within 14d", f"needed by {old[1]}"]
    done = _prune(stored.path, vm, Retention(last=1))
    assert done.kept_by == {new[1]: ["keep-last 1"], new[0]: [f"needed by {new[1]}"]}


def test_children_go_before_their_parents_even_if_clocks_went_back() -> None:
    # The child's label is before its parent's.
    points = [_point(0, datetime(2020, 6, 2, tzinfo=UTC)), _point(1, datetime(2020, 6, 1, tzinfo=UTC), 0)]
    for order in (points, points[::-1]):
        assert [one.backup_id for one in children_first(order)] == ["1", "0"]


def test_records_go_before_blobs_and_children_before_parents(
    tmp_path: Path, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, vm, old, _ = _two_chains(tmp_path / "repository", memory_engine)
    deleted: list[str] = []
    with Repository.open(stored.path) as repository:
        delete = repository.store.delete

        def noting(name: str) -> None:
            deleted.append(name)
            delete(name)

        monkeypatch.setattr(repository.store, "delete", noting)
        vms = [VMName(vm.id, vm.name)]
        prune(repository, Retention(last=1), vms, consolidate=False, notify=lambda line: None)
    records = [name for name in deleted if name.startswith(names.BACKUPS)]
    assert deleted[: len(records)] == records
    assert [next(one for one in old if one in name) for name in records] == old[::-1]


def test_a_reader_that_finds_records_while_they_are_removed_does_not_keep_them_alive(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    """Another process opens the catalog, has read a record and adds it just after that was removed."""
    stored, vm, _old, new = _two_chains(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as slow:
        entries = []
        for backup in slow.catalog.points():
            name = names.record(backup.vm.id, backup.point, backup.backup_id)
            entries.append((backup, name, slow.read_record(name)[1]))
        _prune(stored.path, vm, Retention(last=1))
        slow.catalog.add(entries, is_there=lambda name: (stored.path / name).exists())
    assert check_verified(stored.path, at_least=set(new)) == set(new)


def test_the_engines_old_checkpoints_go_after_a_backup_and_no_others(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    newest = list(vm.checkpoints)
    assert len(newest) == 1
    vm.checkpoints = {"of-another-product": {}, **vm.checkpoints, "of-a-third": {}}
    backup = stored.back_up(vm)
    assert backup.kind is Kind.INCREMENTAL
    assert list(vm.checkpoints) == ["of-another-product", "of-a-third", backup.checkpoint_id]


def test_a_checkpoint_that_cannot_be_removed_fails_no_backup(
    tmp_path: Path, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pitr.errors import EngineBusy

    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)

    def refuse(*_: object) -> None:
        raise EngineBusy("it is during a backup")

    with monkeypatch.context() as patch:
        patch.setattr(EngineFunctions, "delete_checkpoint", refuse)
        stored.back_up(vm)
    assert len(vm.checkpoints) == 2
    stored.back_up(vm)
    assert len(vm.checkpoints) == 1
