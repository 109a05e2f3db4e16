# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of disks from storage domain to storage domain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ovirtsdk4
import pytest
from ovirtsdk4 import types

from pitr.lab import Lab
from pitr.system.process import run
from tests.support.sdk_client import Client, content_of, refused, wait_for

MIB = 1 << 20
LOCKED, OK = types.DiskStatus.LOCKED, types.DiskStatus.OK


def ask_for_copy(client: Client, disk_id: str, name: str | None, domain: str | None = "data") -> None:
    client.disk(disk_id).copy(
        disk=types.Disk(name=name) if name is not None else None,
        storage_domain=types.StorageDomain(name=domain) if domain is not None else None,
    )


def named(client: Client, name: str) -> list[Any]:
    return list(client.system.disks_service().list(search=f"alias={name}"))


@pytest.mark.parametrize("disk_format", ["cow", "raw"])
def test_a_copy_is_locked_then_ok_and_has_the_data_and_the_format(
    lab: Lab, shared_client: Client, tmp_path: Path, disk_format: str
) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"x" * MIB)
    lab.add_storage_domain("other")
    vm = lab.add_vm("web1")
    disk = vm.add_disk("system", 4 * MIB, format=disk_format, content=content)
    with lab.engine.phases_held():
        ask_for_copy(shared_client, disk.id, "system_copy", "other")
        (locked,) = named(shared_client, "system_copy")
        assert (locked.status, shared_client.disk(disk.id).get().status) == (LOCKED, LOCKED)
        assert "locked" in refused(lambda: ask_for_copy(shared_client, disk.id, "second")).fault.detail
    copy = shared_client.await_disk(locked.id)
    shared_client.await_disk(disk.id)
    assert [each.id for each in vm.disks] == [disk.id]
    assert (copy.provisioned_size, copy.format.value) == (4 * MIB, disk_format)
    domains = shared_client.system.storage_domains_service().list(search="name=other")
    assert [domain.id for domain in copy.storage_domains] == [domain.id for domain in domains]
    assert content_of(lab.disk(copy.id), tmp_path) == content_of(disk, tmp_path)
    info = json.loads(run(["qemu-img", "info", "--output=json", str(lab.disk(copy.id).image)]))
    assert info["format"] == {"cow": "qcow2", "raw": "raw"}[disk_format]


def test_a_copy_has_no_checkpoints_of_the_disk(lab: Lab, shared_client: Client) -> None:
    vm = lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    shared_client.backup_once(vm, [disk])
    ask_for_copy(shared_client, disk.id, "system_copy")
    copy = shared_client.await_disk(named(shared_client, "system_copy")[0].id)
    assert lab.host.checkpoints(copy.id) == []
    assert lab.host.checkpoints(disk.id) == vm.checkpoints != []


def test_a_copy_that_fails_leaves_no_disk(lab: Lab, shared_client: Client) -> None:
    disk = lab.add_disk("lone", MIB)
    lab.engine.faults.fail("disk copy")
    ask_for_copy(shared_client, disk.id, "copy")
    wait_for(lambda: [each.id for each in lab.disks], lambda ids: ids == [disk.id])
    assert disk.status == "ok"


def test_a_disk_of_a_vm_that_runs_is_not_copied(lab: Lab, shared_client: Client) -> None:
    vm = lab.add_vm("web1")
    disk = vm.add_disk("system", MIB)
    vm.start()
    error = refused(lambda: ask_for_copy(shared_client, disk.id, "copy"))
    assert (error.code, "which is not down" in error.fault.detail) == (409, True)
    vm.stop()
    ask_for_copy(shared_client, disk.id, "copy")
    wait_for(lambda: named(shared_client, "copy")[0].status, lambda status: status == OK)


def test_requests_for_copies_that_are_refused(lab: Lab, shared_client: Client) -> None:
    disk = lab.add_disk("lone", MIB)
    lab.add_storage_domain("off", active=False)
    full = lab.add_storage_domain("full")
    full.available = MIB - 1
    assert refused(lambda: ask_for_copy(shared_client, disk.id, "copy", None)).code == 400
    assert refused(lambda: ask_for_copy(shared_client, disk.id, "no blanks")).code == 400
    assert isinstance(
        refused(lambda: ask_for_copy(shared_client, disk.id, "copy", "none")), ovirtsdk4.NotFoundError
    )
    assert "not active" in refused(lambda: ask_for_copy(shared_client, disk.id, "copy", "off")).fault.detail
    assert (
        "Low disk space" in refused(lambda: ask_for_copy(shared_client, disk.id, "copy", "full")).fault.detail
    )
    lab.engine.set_disk_status(disk.id, "illegal")
    assert "illegal" in refused(lambda: ask_for_copy(shared_client, disk.id, "copy")).fault.detail
    assert [each.id for each in lab.disks] == [disk.id]
