# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole backups through the unmodified SDK and a real imageio daemon, compared byte for byte."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from ovirtsdk4 import types

from pitr.errors import LabError
from pitr.lab import Lab
from tests.support.sdk_client import FAILED, READY, SUCCEEDED, Client, content_of

SIZE = 10487296
KIB = 1024


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image with real content for a disk."""
    path = tmp_path / "content"
    path.write_bytes(random.Random(1).randbytes(3 * 64 * KIB))
    return path


def test_full_and_incremental_of_a_running_vm_restore_the_guests_data(
    new_lab: Lab, client: Client, tmp_path: Path, image: Path
) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", SIZE, content=image)
    vm.start()
    backup = client.start_backup(vm, [disk])
    expected_full = content_of(disk, tmp_path)
    with disk.guest() as guest:
        guest.write(0, b"changed while the backup runs" * 100)
        guest.zero(64 * KIB, 64 * KIB, unmap=True)
        guest.write(SIZE - 512, b"e" * 512)
        full = client.read_backup(vm, disk, backup.id)
        client.finalize_backup(vm, backup.id)
    assert full == expected_full

    backup = client.start_backup(vm, [disk], since=backup.to_checkpoint_id)
    assert client.modes(vm, backup.id) == {disk.id: "incremental"}
    expected = content_of(disk, tmp_path)
    with disk.guest() as guest:
        guest.write(4096, os.urandom(100 * KIB))
        assert client.read_backup(vm, disk, backup.id, base=full) == expected
    assert client.finalize_backup(vm, backup.id).phase == SUCCEEDED
    assert (new_lab.open_backups(), new_lab.open_transfers(), new_lab.locked_disks()) == ([], [], [])


def test_full_and_incremental_of_a_vm_that_is_down(
    new_lab: Lab, client: Client, tmp_path: Path, image: Path
) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", SIZE, content=image)
    backup = client.start_backup(vm, [disk])
    full = client.read_backup(vm, disk, backup.id)
    client.finalize_backup(vm, backup.id)
    assert full == content_of(disk, tmp_path)

    vm.start()
    with disk.guest() as guest:
        guest.write(5 * 64 * KIB, b"between two cold backups")
        guest.discard(0, 64 * KIB)
        guest.flush()
    vm.stop()
    backup = client.start_backup(vm, [disk], since=backup.to_checkpoint_id)
    assert client.read_backup(vm, disk, backup.id, base=full) == changed_while_up(full)
    client.finalize_backup(vm, backup.id)
    assert changed_while_up(full) == content_of(disk, tmp_path)


def changed_while_up(full: bytes) -> bytes:
    changed = bytearray(full)
    text = b"between two cold backups"
    changed[: 64 * KIB] = bytes(64 * KIB)
    changed[5 * 64 * KIB : 5 * 64 * KIB + len(text)] = text
    return bytes(changed)


def test_a_raw_disk_and_a_disk_outside_the_checkpoint_are_full_without_an_error(
    new_lab: Lab, client: Client, tmp_path: Path
) -> None:
    vm = new_lab.add_vm("web1")
    known, raw = vm.add_disk("known", SIZE), vm.add_disk("raw", 1 << 20, format="raw")
    vm.start()
    first = client.backup_once(vm, [known, raw])
    assert [
        disk.id
        for disk in client.vm(vm)
        .checkpoints_service()
        .checkpoint_service(first.to_checkpoint_id)
        .disks_service()
        .list()
    ] == [known.id]
    new = vm.add_disk("new", 1 << 20)
    with raw.guest() as guest:
        guest.write(1000, b"raw")
    backup = client.start_backup(vm, [known, raw, new], since=first.to_checkpoint_id)
    assert client.modes(vm, backup.id) == {known.id: "incremental", raw.id: "full", new.id: "full"}
    assert client.read_backup(vm, raw, backup.id) == content_of(raw, tmp_path)
    client.finalize_backup(vm, backup.id)


def test_no_checkpoint_when_all_disks_are_raw(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("raw", 1 << 20, format="raw")
    assert client.backup_once(vm, [disk]).to_checkpoint_id is None
    assert client.checkpoints(vm) == []


@pytest.mark.parametrize(
    ("compat", "running", "query", "phases"),
    [
        ("4.6", True, None, ["initializing", "starting", "ready", "finalizing", "succeeded"]),
        ("4.6", False, None, ["initializing", "ready", "finalizing", "succeeded"]),
        ("4.7", True, None, ["initializing", "starting", "ready", "finalizing", "succeeded"]),
        ("4.7", False, None, ["initializing", "starting", "ready", "finalizing", "succeeded"]),
        ("4.7", False, {"legacy": "true"}, ["initializing", "ready", "finalizing", "succeeded"]),
    ],
)
def test_phases_come_in_the_order_of_the_mode(
    new_lab: Lab,
    client: Client,
    *,
    compat: str,
    running: bool,
    query: dict[str, str] | None,
    phases: list[str],
) -> None:
    vm = new_lab.add_vm("web1", compat=compat)
    disk = vm.add_disk("system", 1 << 20)
    if running:
        vm.start()
    with new_lab.engine.phases_held():
        backup = client.post_backup(vm, [disk], query=query)
        assert client.backups(vm).backup_service(backup.id).get().phase.value == phases[0]
    client.await_backup(vm, backup.id, READY)
    client.finalize_backup(vm, backup.id)
    assert new_lab.engine.phases_of(backup.id) == phases


def test_the_checkpoint_of_a_live_backup_comes_late_and_scratch_disks_come_and_go(
    new_lab: Lab, client: Client
) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", 1 << 20)
    vm.start()
    with new_lab.engine.phases_held():
        backup = client.post_backup(vm, [disk])
        assert backup.to_checkpoint_id is None
        assert client.checkpoints(vm) == []
    client.await_backup(vm, backup.id, READY)
    scratch = [
        each
        for each in client.system.disks_service().list()
        if each.content_type == types.DiskContentType.BACKUP_SCRATCH
    ]
    assert [each.status for each in scratch] == [types.DiskStatus.LOCKED]
    done = client.finalize_backup(vm, backup.id)
    assert [each.id for each in client.checkpoints(vm)] == [done.to_checkpoint_id]
    assert [each.id for each in client.system.disks_service().list()] == [disk.id]


def test_a_hybrid_backup_has_a_snapshot_and_no_disks_before_it_is_ready(
    new_lab: Lab, client: Client, tmp_path: Path, image: Path
) -> None:
    vm = new_lab.add_vm("web1", compat="4.7")
    disk = vm.add_disk("system", SIZE, content=image)
    vm.start()
    with new_lab.engine.phases_held():
        backup = client.post_backup(vm, [disk])
        assert client.modes(vm, backup.id) == {}
    ready = client.await_backup(vm, backup.id, READY)
    assert ready.snapshot.id in {each.id for each in client.vm(vm).snapshots_service().list()}
    full = client.read_backup(vm, disk, backup.id)
    assert full == content_of(disk, tmp_path)
    client.finalize_backup(vm, backup.id)
    with disk.guest() as guest:
        guest.write(1 << 20, b"news")
    backup = client.start_backup(vm, [disk], since=ready.to_checkpoint_id)
    assert client.modes(vm, backup.id) == {disk.id: "incremental"}
    assert client.read_backup(vm, disk, backup.id, base=full) == content_of(disk, tmp_path)
    assert client.finalize_backup(vm, backup.id).phase == SUCCEEDED


def test_incrementals_from_an_older_checkpoint_after_a_newer_one_was_deleted(
    new_lab: Lab, client: Client, tmp_path: Path
) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", SIZE)
    vm.start()
    points = []
    full = b""
    for number in range(3):
        backup = client.start_backup(vm, [disk])
        full = full or client.read_backup(vm, disk, backup.id)
        points.append(client.finalize_backup(vm, backup.id).to_checkpoint_id)
        with disk.guest() as guest:
            guest.write(number * 128 * KIB, bytes([number + 1]) * 1000)
    client.vm(vm).checkpoints_service().checkpoint_service(points[1]).remove()
    chain = client.checkpoints(vm)
    assert [(each.id, each.parent_id) for each in chain] == [(points[0], None), (points[2], points[0])]
    backup = client.start_backup(vm, [disk], since=points[0])
    assert client.read_backup(vm, disk, backup.id, base=full) == content_of(disk, tmp_path)
    client.finalize_backup(vm, backup.id)


def test_a_client_can_choose_the_backup_id_and_events_contain_it(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", 1 << 20)
    chosen = "11111111-2222-4333-8444-555555555555"
    backup = client.start_backup(vm, [disk], backup_id=chosen, query={"correlation_id": "pitr-1"})
    assert (backup.id, backup.vm.id) == (chosen, vm.id)
    client.finalize_backup(vm, chosen)
    events = client.system.events_service().list(search=chosen)
    assert {event.code for event in events} == {10790, 10793, 10794}
    assert {event.correlation_id for event in events} == {"pitr-1"}


def test_a_failed_freeze_only_matters_when_consistency_is_required(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", 1 << 20)
    vm.start()
    new_lab.engine.set_vm(vm.id, freeze_fails=True)
    client.backup_once(vm, [disk])
    backup = client.post_backup(vm, [disk], require_consistency=True)
    assert client.await_backup(vm, backup.id, READY, FAILED).phase == FAILED
    assert len(client.checkpoints(vm)) == 1
    assert new_lab.locked_disks() == []


def test_a_backup_that_fails_to_start_keeps_the_chain(new_lab: Lab, client: Client, tmp_path: Path) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", SIZE)
    vm.start()
    backup = client.start_backup(vm, [disk])
    full = client.read_backup(vm, disk, backup.id)
    since = client.finalize_backup(vm, backup.id).to_checkpoint_id
    with disk.guest() as guest:
        guest.write(0, b"before the failure")
    new_lab.engine.faults.fail("backup start")
    failed = client.post_backup(vm, [disk], since=since)
    client.await_backup(vm, failed.id, FAILED)
    with disk.guest() as guest:
        guest.write(1 << 20, b"after the failure")
    backup = client.start_backup(vm, [disk], since=since)
    assert client.read_backup(vm, disk, backup.id, base=full) == content_of(disk, tmp_path)
    client.finalize_backup(vm, backup.id)


def test_a_live_backup_fails_when_its_vm_stops(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", 1 << 20)
    vm.start()
    backup = client.start_backup(vm, [disk])
    vm.stop()
    assert client.await_backup(vm, backup.id, FAILED).phase == FAILED
    assert new_lab.locked_disks() == []
    with pytest.raises(LabError):
        vm.stop()


def test_after_a_crash_an_incremental_fails_and_a_full_starts_a_new_chain(
    new_lab: Lab, client: Client, tmp_path: Path
) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", SIZE)
    vm.start()
    lost = client.backup_once(vm, [disk]).to_checkpoint_id
    running = client.start_backup(vm, [disk])
    vm.crash()
    client.await_backup(vm, running.id, FAILED)
    assert [each.id for each in client.checkpoints(vm)] == [lost]
    vm.start()
    failed = client.post_backup(vm, [disk], since=lost)
    client.await_backup(vm, failed.id, FAILED)
    since = client.backup_once(vm, [disk]).to_checkpoint_id
    with disk.guest() as guest:
        guest.write(0, b"news")
    backup = client.start_backup(vm, [disk], since=since)
    assert client.read_backup(vm, disk, backup.id, base=bytes(SIZE)) == content_of(disk, tmp_path)
    client.finalize_backup(vm, backup.id)
    assert new_lab.locked_disks() == []


def test_a_hybrid_backup_succeeds_although_its_snapshot_is_left(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1", compat="4.7")
    new_lab.engine.faults.fail("snapshot removal")
    done = client.backup_once(vm, [vm.add_disk("system", 1 << 20)])
    assert done.phase == SUCCEEDED
    assert 10813 in {event.code for event in client.system.events_service().list(search=done.id)}
    left = [each.description for each in client.vm(vm).snapshots_service().list()]
    assert left == ["Active VM", "Auto-generated for Backup VM"]


def test_ended_backups_and_transfers_vanish_after_a_while(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", 1 << 20)
    backup = client.start_backup(vm, [disk])
    transfer = client.start_download(disk.id, backup.id)
    client.finalize_transfer(transfer.id)
    client.finalize_backup(vm, backup.id)
    assert len(client.backups(vm).list()) == 1
    new_lab.engine.keep_ended(success_s=0, failure_s=0)
    assert list(client.backups(vm).list()) == []
    assert list(client.system.image_transfers_service().list()) == []
