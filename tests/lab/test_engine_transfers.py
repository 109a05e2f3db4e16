# SPDX-License-Identifier: GPL-2.0-or-later
"""Image transfers: phases, URLs, tickets, and the disks at the end."""

from __future__ import annotations

import os
from pathlib import Path

import ovirtsdk4
import pytest
from ovirtsdk4 import types

from pitr.lab import Lab
from tests.support.sdk_client import (
    FINISHED_FAILURE,
    FINISHED_SUCCESS,
    TRANSFERRING,
    Client,
    content_of,
    refused,
    wait_for,
)

PHASE = types.ImageTransferPhase
PAUSE = types.ImageTransferTimeoutPolicy.PAUSE
UNKNOWN = "00000000-0000-4000-8000-000000000000"
MIB = 1 << 20


def test_an_upload_and_a_download_through_the_real_daemon(
    new_lab: Lab, client: Client, tmp_path: Path
) -> None:
    disk_id = client.add_disk(size=2 * MIB, name="new").id
    client.await_disk(disk_id)
    data = os.urandom(MIB)
    upload = client.start_upload(disk_id)
    assert new_lab.locked_disks() == [disk_id]
    with client.imageio(upload) as imageio:
        imageio.write(MIB // 2, data)
        imageio.flush()
    assert client.finalize_transfer(upload.id).phase == FINISHED_SUCCESS
    assert new_lab.disk(disk_id).status == "ok"
    expected = bytes(MIB // 2) + data + bytes(MIB // 2)
    assert content_of(new_lab.disk(disk_id), tmp_path) == expected

    download = client.start_download(disk_id)
    found = bytearray(2 * MIB)
    with client.imageio(download) as imageio:
        imageio.read(0, memoryview(found))
    assert client.finalize_transfer(download.id).phase == FINISHED_SUCCESS
    assert found == expected


def test_urls_exist_only_while_a_ticket_does(new_lab: Lab, client: Client) -> None:
    disk = new_lab.add_disk("lone", MIB)
    with new_lab.engine.phases_held():
        transfer = client.post_transfer(disk.id, direction=types.ImageTransferDirection.DOWNLOAD)
        assert (transfer.phase, transfer.transfer_url, transfer.proxy_url) == (PHASE.INITIALIZING, None, None)
        assert transfer.image.id == disk.id
    ready = client.await_transfer(transfer.id, TRANSFERRING)
    assert ready.transfer_url.startswith(f"{new_lab.host.images_url}/")
    assert ready.proxy_url is not None
    with new_lab.engine.phases_held():
        client.transfer(transfer.id).finalize()
        client.await_transfer(transfer.id, PHASE.FINALIZING_SUCCESS)
        wait_for(client.transfer(transfer.id).get, lambda ending: ending.transfer_url is None)
    client.await_transfer(transfer.id, FINISHED_SUCCESS)
    with pytest.raises(Exception, match=r"403|[Nn]o such ticket"), client.imageio(ready) as imageio:
        imageio.read(0, bytearray(512))


def test_a_cancelled_upload_passes_its_phases_and_deletes_the_disk(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("the only copy", MIB)
    upload = client.start_upload(disk.id)
    assert client.cancel_transfer(upload.id).phase == FINISHED_FAILURE
    assert new_lab.engine.phases_of(upload.id) == [
        "initializing",
        "transferring",
        "cancelled_user",
        "finalizing_cleanup",
        "finished_cleanup",
        "finished_failure",
    ]
    assert isinstance(refused(client.disk(disk.id).get), ovirtsdk4.NotFoundError)
    assert vm.disks == []


def test_a_cancelled_download_keeps_the_disk(new_lab: Lab, client: Client) -> None:
    disk = new_lab.add_disk("lone", MIB)
    download = client.start_download(disk.id)
    assert client.cancel_transfer(download.id).phase == FINISHED_FAILURE
    assert client.disk(disk.id).get().status == types.DiskStatus.OK


def test_an_upload_that_is_damaged_fails_at_finalize_and_deletes_the_disk(
    new_lab: Lab, client: Client
) -> None:
    disk = new_lab.add_disk("lone", MIB)
    upload = client.start_upload(disk.id)
    new_lab.engine.faults.fail("upload verification")
    assert client.finalize_transfer(upload.id).phase == FINISHED_FAILURE
    assert new_lab.disks == []


def test_finalize_cancel_and_extend_succeed_for_a_missing_or_ended_transfer(
    new_lab: Lab, client: Client
) -> None:
    ended = client.start_download(new_lab.add_disk("lone", MIB).id)
    client.finalize_transfer(ended.id)
    for transfer_id in (UNKNOWN, ended.id):
        client.transfer(transfer_id).finalize()
        client.transfer(transfer_id).cancel()
        client.transfer(transfer_id).extend()
    assert client.transfer(ended.id).get().phase == FINISHED_SUCCESS


def test_a_paused_upload_keeps_its_ticket_and_goes_on(
    lab: Lab, shared_client: Client, tmp_path: Path
) -> None:
    disk = lab.add_disk("lone", MIB)
    upload = shared_client.start_upload(disk.id)
    assert refused(shared_client.transfer(upload.id).resume).code == 409
    with shared_client.imageio(upload) as imageio:
        imageio.write(0, b"x" * 512)
        imageio.flush()
    shared_client.transfer(upload.id).pause()
    paused = shared_client.await_transfer(upload.id, PHASE.PAUSED_USER)
    assert paused.transfer_url == upload.transfer_url
    assert lab.locked_disks() == [disk.id]
    shared_client.transfer(upload.id).resume()
    resumed = shared_client.await_transfer(upload.id, TRANSFERRING)
    with shared_client.imageio(resumed) as imageio:
        imageio.write(512, b"y" * 512)
        imageio.flush()
    assert shared_client.finalize_transfer(upload.id).phase == FINISHED_SUCCESS
    assert content_of(disk, tmp_path)[:1025] == b"x" * 512 + b"y" * 512 + b"\0"


def test_resuming_without_the_ticket_leads_back_and_finalizing_keeps_the_disk(
    lab: Lab, shared_client: Client, tmp_path: Path
) -> None:
    disk = lab.add_disk("lone", MIB)
    upload = shared_client.start_upload(disk.id, timeout_policy=PAUSE)
    with shared_client.imageio(upload) as imageio:
        imageio.write(0, b"x" * 512)
        imageio.flush()
    lab.host.restart_daemon()
    shared_client.await_transfer(upload.id, PHASE.PAUSED_SYSTEM)
    shared_client.transfer(upload.id).resume()
    shared_client.await_transfer(upload.id, PHASE.PAUSED_SYSTEM)
    assert lab.engine.phases_of(upload.id)[-2:] == ["resuming", "paused_system"]
    assert shared_client.finalize_transfer(upload.id).phase == FINISHED_SUCCESS
    assert (disk.status, disk.legal) == ("ok", True)
    assert content_of(disk, tmp_path) == b"x" * 512 + bytes(MIB - 512)
    second = shared_client.start_upload(disk.id, timeout_policy=PAUSE)
    assert shared_client.finalize_transfer(second.id).phase == FINISHED_SUCCESS


@pytest.mark.parametrize(("policy", "kept"), [("legacy", True), ("pause", True), ("cancel", False)])
def test_an_upload_that_cannot_start_does_as_its_policy_says(
    lab: Lab, shared_client: Client, policy: str, kept: bool
) -> None:
    disk = lab.add_disk("lone", MIB)
    lab.engine.faults.fail("transfer start")
    direction, timeout_policy = types.ImageTransferDirection.UPLOAD, types.ImageTransferTimeoutPolicy(policy)
    upload = shared_client.post_transfer(disk.id, direction=direction, timeout_policy=timeout_policy)
    shared_client.await_transfer(upload.id, PHASE.PAUSED_SYSTEM if kept else FINISHED_FAILURE)
    assert [each.id for each in lab.disks] == ([disk.id] if kept else [])
    if kept:
        assert shared_client.finalize_transfer(upload.id).phase == FINISHED_SUCCESS


def test_an_open_upload_makes_the_volume_illegal(lab: Lab, shared_client: Client) -> None:
    vm = lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    download = shared_client.start_download(disk.id)
    legal = [disk.legal]
    shared_client.finalize_transfer(download.id)
    upload = shared_client.start_upload(disk.id)
    legal.append(disk.legal)
    assert refused(shared_client.vm(vm).start).code == 409
    assert shared_client.finalize_transfer(upload.id).phase == FINISHED_SUCCESS
    assert [*legal, disk.legal] == [True, False, True]
    shared_client.vm(vm).start()


def test_the_bitmaps_of_a_disk_record_what_an_upload_writes(lab: Lab, shared_client: Client) -> None:
    vm = lab.add_vm("web1")
    disk = vm.add_disk("system", 4 * MIB)
    base = shared_client.backup_once(vm, [disk]).to_checkpoint_id
    upload = shared_client.start_upload(disk.id)
    with shared_client.imageio(upload) as imageio:
        imageio.write(MIB, b"x" * (64 << 10))
        imageio.flush()
    shared_client.finalize_transfer(upload.id)
    backup = shared_client.start_backup(vm, [disk], since=base)
    download = shared_client.start_download(disk.id, backup.id)
    with shared_client.imageio(download) as imageio:
        dirty = [(extent.start, extent.length) for extent in imageio.extents("dirty") if extent.dirty]
    assert dirty == [(MIB, 64 << 10)]
    shared_client.finalize_transfer(download.id)
    shared_client.finalize_backup(vm, backup.id)


def test_an_upload_finds_zeroes_and_frees_storage_only_on_files(lab: Lab, shared_client: Client) -> None:
    lab.add_storage_domain("lun", storage_type="iscsi")
    on_files = lab.add_disk("files", 4 * MIB)
    on_blocks = lab.add_disk("blocks", 4 * MIB, storage_domain="lun")
    sizes = []
    for disk in (on_files, on_blocks):
        upload = shared_client.start_upload(disk.id)
        with shared_client.imageio(upload) as imageio:
            imageio.write(0, b"x" * 2 * MIB)
            imageio.flush()
            imageio.write(0, bytes(2 * MIB))
            imageio.flush()
            assert [extent.zero for extent in imageio.extents("zero")] == [True]
        shared_client.finalize_transfer(upload.id)
        sizes.append(disk.image.stat().st_blocks * 512)
    assert sizes[0] < MIB < sizes[1]


def test_pausing_a_download_is_refused(new_lab: Lab, client: Client) -> None:
    download = client.start_download(new_lab.add_disk("lone", MIB).id)
    assert refused(client.transfer(download.id).pause).code == 400
    client.finalize_transfer(download.id)


@pytest.mark.parametrize(
    ("direction", "policy", "phase"),
    [
        ("download", "legacy", PHASE.FINISHED_FAILURE),
        ("upload", "legacy", PHASE.PAUSED_SYSTEM),
        ("upload", "pause", PHASE.PAUSED_SYSTEM),
        ("upload", "cancel", PHASE.FINISHED_FAILURE),
    ],
)
def test_an_idle_transfer_is_stopped(
    new_lab: Lab, client: Client, direction: str, policy: str, phase: types.ImageTransferPhase
) -> None:
    disk = new_lab.add_disk("lone", MIB)
    transfer = client.post_transfer(
        disk.id,
        direction=types.ImageTransferDirection(direction),
        timeout_policy=types.ImageTransferTimeoutPolicy(policy),
        inactivity_timeout=1,
    )
    assert client.await_transfer(transfer.id, phase).inactivity_timeout == 1
    assert (new_lab.disks == []) == (direction == "upload" and policy == "cancel")
    client.cancel_transfer(transfer.id)


def test_an_upload_waits_for_a_vm_that_is_down(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    vm.start()
    error = refused(lambda: client.start_upload(disk.id))
    assert error.code == 409
    assert "which is not down" in error.fault.detail
    vm.stop()
    assert client.finalize_transfer(client.start_upload(disk.id).id).phase == FINISHED_SUCCESS


def test_a_disk_in_transfer_is_locked_for_another(new_lab: Lab, client: Client) -> None:
    disk = new_lab.add_disk("lone", MIB)
    first = client.start_download(disk.id)
    error = refused(lambda: client.start_download(disk.id))
    assert error.code == 409
    assert "The following disks are locked: lone" in error.fault.detail
    assert refused(client.disk(disk.id).remove).code == 409
    client.finalize_transfer(first.id)
    client.disk(disk.id).remove()


def test_finalizing_a_transfer_sets_its_disk_ok_while_the_backup_goes_on(
    new_lab: Lab, client: Client
) -> None:
    vm = new_lab.add_vm("web1")
    first, second = vm.add_disk("first", MIB), vm.add_disk("second", MIB)
    backup = client.start_backup(vm, [first, second])
    assert sorted(new_lab.locked_disks()) == sorted([first.id, second.id])
    client.finalize_transfer(client.start_download(first.id, backup.id).id)
    assert new_lab.locked_disks() == [second.id]
    client.finalize_backup(vm, backup.id)
    assert new_lab.locked_disks() == []


def test_dirty_extents_are_only_for_an_incremental_disk(new_lab: Lab, client: Client) -> None:
    vm = new_lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    backup = client.start_backup(vm, [disk])
    download = client.start_download(disk.id, backup.id)
    with client.imageio(download) as imageio, pytest.raises(Exception, match="dirty"):
        list(imageio.extents("dirty"))
    client.finalize_transfer(download.id)
    client.finalize_backup(vm, backup.id)


def test_a_transfer_whose_ticket_is_lost_ends(new_lab: Lab, client: Client) -> None:
    disk = new_lab.add_disk("lone", MIB)
    download = client.start_download(disk.id)
    new_lab.host.restart_daemon()
    assert client.await_transfer(download.id, FINISHED_FAILURE).transfer_url is None
    assert new_lab.disk(disk.id).status == "ok"
