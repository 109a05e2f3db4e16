# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that share no locks: what one removes is never the base of what another commits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pitr.errors import BaseRemoved
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.pruned import Pruned
from pitr.jobs.upkeep.retention import Retention
from pitr.jobs.upkeep.undo_prune import undo
from pitr.model import Backup, VMName
from pitr.repository import Repository, removed_points, tombstones
from tests.support.memory_bucket import GRACE, Bucket
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.points import VM, Writer
from tests.support.stored_points import content

KEEP_ONE = Retention(last=1)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def hosts(bucket: Bucket, tmp_path: Path) -> Iterator[list[Repository]]:
    opened = [bucket.host(tmp_path / str(number)) for number in range(3)]
    yield opened
    for repository in opened:
        repository.close()


def _prune(repository: Repository) -> Pruned:
    repository.forget_catalog()
    return prune(repository, KEEP_ONE, repository.catalog.vms(), notify=print)


def _again(bucket: Bucket, repository: Repository) -> Repository:
    return bucket.host(repository.path)


def test_another_host_sees_a_new_point_at_once(bucket: Bucket, hosts: list[Repository]) -> None:
    first, second, _ = hosts
    assert second.catalog.points() == []
    writer = Writer(first)
    points = [writer.add("64k:A"), writer.add("64k:B")]
    for each in (_again(bucket, second), _again(bucket, first)):
        with each:
            assert each.catalog.points() == points[::-1]
    # Of one VM, it is enough to list its records and its tombstones.
    bucket.requests.clear()
    with _again(bucket, second) as again:
        assert again.catalog_of_vm(VM.id).points(VM.id) == points[::-1]
    assert bucket.requests == {"list": 2}


def test_a_base_that_gets_a_tombstone_during_a_backup_is_not_used(
    bucket: Bucket, hosts: list[Repository]
) -> None:
    first, second, _ = hosts
    writer = Writer(first)
    base = writer.add("64k:A")
    child = writer.add("64k:B", commit=False)
    tombstones.add(second.store, VM.id, base.backup_id)
    with pytest.raises(BaseRemoved, match="is removed") as caught:
        writer.commit(child)
    assert caught.value.exit_code == 5
    assert len(bucket.names("backups")) == 1


def test_a_base_that_was_swept_during_a_backup_is_not_used(bucket: Bucket, hosts: list[Repository]) -> None:
    writer = Writer(hosts[0])
    base = writer.add("64k:A")
    del bucket.objects[bucket.names("backups")[0]]
    with pytest.raises(BaseRemoved, match=base.backup_id):
        writer.commit(writer.add("64k:B", commit=False))


def test_a_run_of_half_the_grace_time_gives_up_by_the_clock_of_the_store(
    bucket: Bucket, hosts: list[Repository]
) -> None:
    writer = Writer(hosts[0])
    writer.add("64k:A")
    child = writer.add("64k:B", commit=False)
    bucket.now += GRACE / 2 + timedelta(seconds=2)
    with pytest.raises(BaseRemoved, match="half the grace time"):
        writer.commit(child)
    child = writer.add("64k:C", commit=False)
    bucket.now += GRACE / 2 - timedelta(seconds=2)
    writer.commit(child)
    assert len(bucket.names("backups")) == 2


def test_the_age_of_a_backup_counts_from_its_note(
    bucket: Bucket, hosts: list[Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MemoryEngine()
    engine.install(monkeypatch)
    vm = engine.add_vm("web1", bytes(65536), b"x" * 65536)

    def passes(kind: str, name: str) -> None:
        if kind == "create" and name.startswith("indexes/"):
            bucket.now += GRACE / 3

    bucket.on_request = passes
    with pytest.raises(BaseRemoved, match="half the grace time"):
        engine.back_up(hosts[0], vm)
    assert bucket.names("backups", "blobs", "indexes") == []
    bucket.on_request = lambda kind, name: None
    engine.back_up(hosts[0], vm)


def test_two_hosts_that_commit_on_one_base_see_each_other(
    bucket: Bucket, hosts: list[Repository], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = hosts
    writer = Writer(first)
    base = writer.add("64k:A 64k:B")
    other = Writer(second)
    # Both choose the base from what they see now.
    assert second.catalog.points() == first.catalog.points() == [base]
    other.backups = [base]
    mine = writer.add("64k:C 64k:-", commit=False)
    theirs = other.add("64k:- 64k:D", commit=False)
    caplog.set_level(logging.WARNING)
    mine = writer.commit(mine)
    assert caplog.messages == []
    theirs = other.commit(theirs)
    assert mine.backup_id in caplog.text and "two hosts" in caplog.text
    with _again(bucket, hosts[2]) as third:
        assert len(third.catalog.points()) == 3
        for backup, expected in ((mine, b"C" * 65536 + b"B" * 65536), (theirs, b"A" * 65536 + b"D" * 65536)):
            assert list(content(third, backup).values()) == [expected]


def test_a_host_sees_the_point_that_another_one_commits_right_before_its_own(
    bucket: Bucket, hosts: list[Repository], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = hosts
    writer = Writer(first)
    base = writer.add("64k:A")
    other = Writer(second)
    assert second.catalog.points() == [base]
    other.backups = [base]
    mine, theirs = writer.add("64k:C", commit=False), other.add("64k:D", commit=False)
    committed: list[Backup] = []

    def between(kind: str, name: str) -> None:
        if kind == "create" and name.startswith("backups/"):
            bucket.on_request = lambda kind, name: None
            committed.append(other.commit(theirs))
            assert caplog.messages == []

    caplog.set_level(logging.WARNING)
    bucket.on_request = between
    writer.commit(mine)
    assert committed[0].backup_id in caplog.text and "two hosts" in caplog.text


def test_the_run_after_a_removed_base_compares_with_what_is_left(
    bucket: Bucket, hosts: list[Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = hosts
    engine = MemoryEngine()
    engine.install(monkeypatch)
    vm = engine.add_vm("web1", b"a" * 65536)
    points: list[Backup] = []
    for letter in (b"b", b"c"):
        points.append(engine.back_up(first, vm))
        vm.disks[next(iter(vm.disks))][:4096] = letter * 4096
    removed_points.hide(second, [points[1]])
    with _again(bucket, first) as again:
        newest = engine.back_up(again, vm)
        assert newest.parent_id == points[0].backup_id
        assert _content(again, newest, vm)


def _content(repository: Repository, backup: Backup, vm: MemoryVM) -> bool:
    return content(repository, backup) == {disk: bytes(data) for disk, data in vm.disks.items()}


def test_a_configuration_that_a_sweep_removes_meanwhile_is_stored_again(
    bucket: Bucket, hosts: list[Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MemoryEngine()
    engine.install(monkeypatch)
    vm = engine.add_vm("web1", b"a" * 65536)
    engine.back_up(hosts[0], vm)
    [name] = bucket.names("configurations")

    def swept(kind: str, asked: str) -> None:
        if kind == "create" and asked.startswith("backups/"):
            bucket.objects.pop(name, None)

    bucket.on_request = swept
    engine.back_up(hosts[0], vm, full=True)
    assert bucket.names("configurations") == [name]


def test_each_prune_sweeps_what_is_due_and_keeps_what_others_use(
    bucket: Bucket, hosts: list[Repository]
) -> None:
    first, second, _ = hosts
    writer = Writer(first)
    old = writer.add("64k:A")
    writer.add("64k:B", full=True)
    assert [each.backup_id for each in _prune(second).removed] == [old.backup_id]
    bucket.now += GRACE - timedelta(seconds=2)
    assert not _prune(second).swept and len(bucket.names("blobs")) == 2
    bucket.now += timedelta(seconds=2)
    assert [each.backup_id for each in _prune(first).swept] == [old.backup_id]
    assert len(bucket.names("blobs", "indexes", "backups")) == 3 and not bucket.names("tombstones")
    # An upload without a record stays for the grace time.
    first.store.create(f"blobs/{old.streams[0].disk_id}/lost.sparse.zst", b"x")
    bucket.now += GRACE - timedelta(seconds=2)
    assert _prune(first).unreferenced == []
    bucket.now += timedelta(seconds=4)
    assert len(_prune(first).unreferenced) == 1


def test_a_host_forgets_a_vm_whose_points_another_host_swept(bucket: Bucket, hosts: list[Repository]) -> None:
    first, second, third = hosts
    points = [Writer(first).add("64k:A"), Writer(first, VMName("another", "other")).add("64k:B", full=True)]
    assert {point.backup_id for point in second.catalog.points()} == {each.backup_id for each in points}
    removed_points.hide(third, [points[0]])
    bucket.now += GRACE
    with _again(bucket, third) as sweeper:
        assert len(prune(sweeper, KEEP_ONE, sweeper.catalog.vms(), notify=print).swept) == 1
    bucket.requests.clear()
    with _again(bucket, second) as again:
        assert again.catalog.points() == [points[1]]
    # However many VMs there are, one list shows their records; another one tells what was swept.
    assert bucket.requests == {"list": 3}
    with _again(bucket, first) as again:
        assert again.catalog_by_number.points() == [points[1]]


def test_nothing_comes_back_shortly_before_a_sweep_may_begin(bucket: Bucket, hosts: list[Repository]) -> None:
    """A sweep that begins right after the grace time has read the tombstone that an undo is about to remove."""
    writer = Writer(hosts[0])
    writer.add("64k:A 64k:B")
    writer.add("64k:C 64k:D")
    with _again(bucket, hosts[1]) as keeper:
        [newest, oldest] = keeper.catalog.points()
        removed_points.hide(keeper, [newest, oldest])
    bucket.now += GRACE - timedelta(minutes=10)
    with _again(bucket, hosts[1]) as keeper:
        done = undo(keeper, [])
        assert done.points == [] and done.late == 2
        assert len(undo(keeper, [newest.backup_id]).failed) == 1
    assert len(bucket.names("tombstones")) == 2
    bucket.now -= GRACE / 10
    with _again(bucket, hosts[1]) as keeper:
        assert len(undo(keeper, []).points) == 2
    assert not bucket.names("tombstones")
