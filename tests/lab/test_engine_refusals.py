# SPDX-License-Identifier: GPL-2.0-or-later
"""Each refusal of the engine, with the status and text that clients distinguish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import ovirtsdk4
import pytest
from ovirtsdk4 import types

from pitr.lab import Lab, LabDisk, LabVM
from tests.support.sdk_client import FAILED, READY, SUCCEEDED, Client, refused, wait_for

UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Site(NamedTuple):
    lab: Lab
    client: Client
    vm: LabVM
    disk: LabDisk


@pytest.fixture
def site(new_lab: Lab, client: Client) -> Iterator[Site]:
    """A VM that is down, with a disk. The fixture checks that its backups and transfers end."""
    vm = new_lab.add_vm("web1")
    yield Site(new_lab, client, vm, vm.add_disk("system", 1 << 20))
    assert (new_lab.open_backups(), new_lab.open_transfers()) == ([], [])


def check(error: ovirtsdk4.Error, status: int, text: str) -> None:
    assert error.code == status
    assert text in error.fault.detail
    assert error.fault.reason == "Operation Failed"


def test_a_second_backup_while_one_runs(site: Site) -> None:
    backup = site.client.start_backup(site.vm, [site.disk])
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk]))
    check(error, 409, "Cannot backup VM. The VM is during a backup operation.")
    site.client.finalize_backup(site.vm, backup.id)


def test_a_vm_that_is_neither_up_nor_down(site: Site) -> None:
    site.lab.engine.set_vm(site.vm.id, status="paused")
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk]))
    check(error, 409, "The Virtual Machine should be in Up or Down status.")


def test_a_vm_that_previews_a_snapshot(site: Site) -> None:
    site.lab.engine.set_vm(site.vm.id, previewing=True)
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk]))
    check(error, 409, "VM is previewing a Snapshot.")


def test_a_locked_disk(site: Site) -> None:
    site.lab.engine.set_disk_status(site.disk.id, "locked")
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk]))
    check(error, 409, "The following disks are locked: system")


def test_a_disk_of_another_vm(site: Site) -> None:
    other = site.lab.add_vm("db1").add_disk("other", 1 << 20)
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk, other]))
    check(error, 409, "The following disks are not active on VM web1: other")


def test_a_disk_that_does_not_exist(site: Site) -> None:
    wanted = types.Backup(disks=[types.Disk(id=UNKNOWN)])
    error = refused(lambda: site.client.backups(site.vm).add(wanted))
    check(error, 400, "disk(s) ID(s) does not exist")


def test_a_backup_id_that_exists(site: Site) -> None:
    done = site.client.backup_once(site.vm, [site.disk])
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk], backup_id=done.id))
    check(error, 400, f"backup ID {done.id} already exists.")


def test_a_checkpoint_that_does_not_exist(site: Site) -> None:
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk], since=UNKNOWN))
    check(error, 400, f"Checkpoint ID {UNKNOWN} doesn't exist.")


def test_an_invalid_checkpoint(site: Site) -> None:
    since = site.client.backup_once(site.vm, [site.disk]).to_checkpoint_id
    site.lab.engine.invalidate_checkpoint(since)
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk], since=since))
    check(error, 400, f"Checkpoint ID {since} is invalid and should be removed.")


def test_finalizing_a_backup_with_an_active_transfer(site: Site) -> None:
    backup = site.client.start_backup(site.vm, [site.disk])
    transfer = site.client.start_download(site.disk.id, backup.id)
    service = site.client.backups(site.vm).backup_service(backup.id)
    error = refused(service.finalize)
    check(error, 409, "Cannot stop VM backup. There is an active image transfer for VM backup")
    site.client.finalize_transfer(transfer.id)
    assert site.client.finalize_backup(site.vm, backup.id).phase == SUCCEEDED


def test_finalizing_twice(site: Site) -> None:
    done = site.client.backup_once(site.vm, [site.disk])
    error = refused(site.client.backups(site.vm).backup_service(done.id).finalize)
    check(error, 400, "is already in 'succeeded' phase, no need")
    assert error.fault.detail == error.fault.detail.lower()


@pytest.mark.parametrize("running", [True, False])
def test_finalizing_a_live_or_cold_backup_too_early_makes_it_fail(site: Site, running: bool) -> None:
    if running:
        site.vm.start()
    with site.lab.engine.phases_held():
        backup = site.client.post_backup(site.vm, [site.disk])
        service = site.client.backups(site.vm).backup_service(backup.id)
        check(refused(service.finalize), 400, "is not in READY phase, backup phase is ")
    assert site.client.await_backup(site.vm, backup.id, READY, FAILED).phase == FAILED
    assert site.client.checkpoints(site.vm) == []


def test_finalizing_a_hybrid_backup_too_early_is_fine(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1", compat="4.7")
    with new_lab.engine.phases_held():
        backup = client.post_backup(vm, [vm.add_disk("system", 1 << 20)])
        client.backups(vm).backup_service(backup.id).finalize()
    assert client.await_backup(vm, backup.id, SUCCEEDED, FAILED).phase == SUCCEEDED
    assert "ready" not in new_lab.engine.phases_of(backup.id)


def test_a_transfer_of_a_backup_that_is_not_ready(site: Site) -> None:
    done = site.client.backup_once(site.vm, [site.disk])
    error = refused(lambda: site.client.start_download(site.disk.id, done.id))
    check(error, 409, "The VM backup is not in READY phase, backup phase is SUCCEEDED")


def test_format_cow_for_a_backup(site: Site) -> None:
    backup = site.client.start_backup(site.vm, [site.disk])
    cow = types.DiskFormat.COW
    error = refused(lambda: site.client.start_download(site.disk.id, backup.id, format=cow))
    check(error, 400, "specified format is not applicable for VM backup.")
    site.client.finalize_backup(site.vm, backup.id)


def test_deleting_a_checkpoint_during_a_backup(site: Site) -> None:
    since = site.client.backup_once(site.vm, [site.disk]).to_checkpoint_id
    backup = site.client.start_backup(site.vm, [site.disk])
    service = site.client.vm(site.vm).checkpoints_service().checkpoint_service(since)
    check(refused(service.remove), 409, "during a backup operation")
    site.client.finalize_backup(site.vm, backup.id)


def test_missing_entities_are_404_with_an_empty_body(site: Site) -> None:
    missing = [
        site.client.system.vms_service().vm_service(UNKNOWN).get,
        site.client.disk(UNKNOWN).get,
        site.client.disk(UNKNOWN).remove,
        site.client.transfer(UNKNOWN).get,
        site.client.transfer(UNKNOWN).resume,
        site.client.backups(site.vm).backup_service(UNKNOWN).get,
        site.client.backups(site.vm).backup_service(UNKNOWN).finalize,
        site.client.vm(site.vm).checkpoints_service().checkpoint_service(UNKNOWN).get,
        site.client.system.storage_domains_service().storage_domain_service(UNKNOWN).get,
    ]
    for request in missing:
        error = refused(request)
        assert isinstance(error, ovirtsdk4.NotFoundError)
        assert error.fault is None


def test_a_lost_chain_fails_the_request_and_blocks_the_vm_until_its_backup_has_failed(site: Site) -> None:
    since = site.client.backup_once(site.vm, [site.disk]).to_checkpoint_id
    site.lab.engine.lose_checkpoints(site.vm.id, at_next_backup=True)
    with site.lab.engine.phases_held():
        error = refused(lambda: site.client.post_backup(site.vm, [site.disk], since=since, backup_id=UNKNOWN))
        assert (error.code, error.fault.detail) == (400, "[]")
        assert site.client.checkpoints(site.vm) == []
        blocked = refused(lambda: site.client.post_backup(site.vm, [site.disk]))
        check(blocked, 409, "during a backup operation")
    assert site.client.await_backup(site.vm, UNKNOWN, FAILED).phase == FAILED
    codes = [event.code for event in site.client.system.events_service().list()]
    assert {10791, 10792} <= set(codes)
    assert site.client.backup_once(site.vm, [site.disk]).phase == SUCCEEDED


def test_a_chain_that_is_lost_already(site: Site) -> None:
    since = site.client.backup_once(site.vm, [site.disk]).to_checkpoint_id
    site.lab.engine.lose_checkpoints(site.vm.id)
    error = refused(lambda: site.client.post_backup(site.vm, [site.disk], since=since))
    check(error, 400, "doesn't exist.")
    assert site.lab.host.checkpoints(site.disk.id) == []


def test_a_restored_snapshot_makes_all_checkpoints_invalid(site: Site) -> None:
    site.client.backup_once(site.vm, [site.disk])
    site.lab.engine.restore_snapshot(site.vm.id)
    assert [each.state for each in site.client.checkpoints(site.vm)] == [types.CheckpointState.INVALID]


def test_a_detached_disk_leaves_its_checkpoints_and_empty_ones_disappear(site: Site) -> None:
    second = site.vm.add_disk("second", 1 << 20)
    both = site.client.backup_once(site.vm, [site.disk, second]).to_checkpoint_id
    site.client.backup_once(site.vm, [second])
    site.vm.detach(second)
    chain = site.client.checkpoints(site.vm)
    assert [each.id for each in chain] == [both]
    service = site.client.vm(site.vm).checkpoints_service().checkpoint_service(both)
    wait_for(service.disks_service().list, lambda disks: [disk.id for disk in disks] == [site.disk.id])
    assert site.lab.host.checkpoints(second.id) == []
