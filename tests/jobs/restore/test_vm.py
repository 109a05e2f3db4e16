# SPDX-License-Identifier: GPL-2.0-or-later
"""Restores of a lost VM to a new one, and of damaged disks in place, with checksums of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pitr.endpoints.images.memory import MemorySource
from pitr.errors import FormatError
from pitr.lab import Lab, LabVM
from pitr.ovirt import ovf
from pitr.ovirt.imageio.checksum import checksum
from tests.support.lab import MiB, assert_same, oracle_of
from tests.support.pitr import Pitr

SIZE = 10487296  # hosts round it up: the new disk is larger


def _vm(lab: Lab, tmp_path: Path, pitr: Pitr) -> tuple[LabVM, dict[str, Path]]:
    """Back up a VM with a boot disk and a raw disk, then change its disks."""
    vm = lab.add_vm("web", nics=["nic1", "nic2"], description="what it is for")
    vm.add_disk("system", SIZE, bootable=True)
    vm.add_disk("data", 2 * MiB, format="raw")
    vm.start()
    with vm.disks[0].guest() as guest:
        guest.write(MiB - 100, b"A" * 70000)
        guest.write(SIZE - 512, b"B" * 512)
    with vm.disks[1].guest() as guest:
        guest.write(0, b"C" * MiB)
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        pitr.backup(vm.name)
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(0, b"D" * disk.size)
    return vm, oracle


def _assert_holds(lab: Lab, document: Any, oracle: dict[str, Path], folder: Path) -> None:
    for disk in document["disks"]:
        copy = folder / f"{disk['target']}.raw"
        lab.disk(disk["target"]).copy_content(copy)
        with copy.open("r+b") as file:
            file.seek(disk["size"])
            assert not any(file.read())
            file.truncate(disk["size"])
        assert_same(copy, oracle[disk["disk_id"]])


def test_a_new_vm_beside_the_old_one_has_ids_and_addresses_of_its_own(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    lab.add_storage_domain("fast")
    vm, oracle = _vm(lab, tmp_path, pitr)
    document = pitr.json(
        *("restore", "web", "--at", "now", "--as-new-vm", "web-new", "--verify"), "--disk-map", "data=fast"
    )
    new = lab.vm("web-new")
    assert document["vm_id"] == new.id != vm.id
    assert not new.running
    assert new.nics.keys() == vm.nics.keys() and not set(new.nics.values()) & set(vm.nics.values())
    assert [(disk.name, disk.format, disk.bootable, disk.interface) for disk in new.disks] == [
        ("system", "cow", True, "virtio_scsi"),
        ("data", "raw", False, "virtio_scsi"),
    ]
    assert {disk.id for disk in new.disks}.isdisjoint(disk.id for disk in vm.disks)
    domains = lab.engine.state.storage_domains
    placed = [domains[lab.engine.state.disk(disk.id).storage_domain_id].name for disk in new.disks]
    assert placed == ["data", "fast"]
    _assert_holds(lab, document, oracle, tmp_path)
    for disk in document["disks"]:
        content = (tmp_path / f"{disk['target']}.raw").read_bytes()
        padded = content + bytes(-len(content) % 4096)
        assert disk["checksum"] == checksum(MemorySource(padded))


def test_a_vm_that_is_gone_comes_back_with_its_id_and_addresses_and_starts(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm, oracle = _vm(lab, tmp_path, pitr)
    nics = vm.nics
    vm.stop()
    vm.remove()
    assert lab.disks == []
    document = pitr.json("restore", "--at", "now", "--as-new-vm", "web")
    new = lab.vm("web")
    assert (new.id, new.nics, new.running) == (vm.id, nics, False)
    _assert_holds(lab, document, oracle, tmp_path)
    new.start()
    point = pitr.backup("web")
    assert point["kind"] == "full" and {disk["disk_id"] for disk in point["disks"]} == {
        disk["target"] for disk in document["disks"]
    }


def test_start_starts_the_new_vm(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, tmp_path, pitr)
    pitr("restore", "--at", "now", "--as-new-vm", "web-new", "--start", "--cluster", "Default")
    assert lab.vm("web-new").running


def test_a_restore_of_a_vm_that_fails_leaves_nothing(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, tmp_path, pitr)
    before = {disk.id for disk in lab.disks}
    lab.engine.faults.fail("upload verification")
    pitr("restore", "--at", "now", "--as-new-vm", "web-new", code=6)
    assert {disk.id for disk in lab.disks} == before
    with pytest.raises(LookupError):
        lab.vm("web-new")


def test_a_lost_answer_to_the_creation_of_a_vm_makes_no_second_one(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    _vm(lab, tmp_path, pitr)
    lab.engine.faults.next("POST", r"/api/vms$", status=500, handled=True)
    document = pitr.json("restore", "--at", "now", "--as-new-vm", "web-new")
    assert document["vm_id"] == lab.vm("web-new").id
    assert [vm.name for vm in lab.engine.state.vms.values()] == ["web", "web-new"]


def test_refused_before_anything_is_made(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, tmp_path, pitr)
    before = {disk.id for disk in lab.disks}
    for options, code, said in (
        (["--as-new-vm", "web"], 2, "already"),
        (["--as-new-vm", "x", "--cluster", "nowhere"], 2, "Default"),
        (["--as-new-vm", "x", "--disk-map", "nothing=data"], 2, "nothing"),
        (["--as-new-vm", "x", "--disk-map", "data"], 2, "DISK=SD"),
        (["--as-new-vm", "x", "--storage-domain", "nowhere"], 2, "nowhere"),
        (["--as-new-vm", "x", "--replace"], 2, "exclude"),
        (["--start"], 2, "--as-new-vm"),
        (["--replace"], 6, "is up"),
    ):
        assert said in pitr("restore", "--at", "now", *options, code=code).complaint
    assert {disk.id for disk in lab.disks} == before


def test_replace_puts_restored_disks_in_place_and_keeps_the_old_ones(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm, oracle = _vm(lab, tmp_path, pitr)
    old = vm.disks
    vm.stop()
    document = pitr.json("restore", "--at", "now", "--replace", "--disk", "system")
    assert document["vm_id"] == vm.id and document["disks"][0]["checksum"]
    new = vm.disks
    assert [(disk.name, disk.bootable) for disk in new] == [("data", False), ("system", True)]
    assert new[0].id == old[1].id and new[1].id == document["disks"][0]["target"]
    kept = lab.disk(old[0].id)
    assert kept.name.startswith("system_replaced_")
    _assert_holds(lab, document, oracle, tmp_path)


@pytest.mark.parametrize("fault", ["upload verification", "attach", "rename"])
def test_replace_that_fails_puts_the_old_disks_back(lab: Lab, pitr: Pitr, tmp_path: Path, fault: str) -> None:
    vm, _ = _vm(lab, tmp_path, pitr)
    vm.stop()
    before = [(disk.id, disk.name, disk.bootable) for disk in vm.disks]
    if fault == "upload verification":
        lab.engine.faults.fail("upload verification")
    elif fault == "attach":
        lab.engine.faults.next("POST", "diskattachments$", status=409, body="<fault/>")
    else:
        # The first two calls rename the old disks.
        with mock.patch("pitr.jobs.restore.swap.rename_attached_disk", _fails_at_third_call()):
            pitr("restore", "--at", "now", "--replace", code=6)
    if fault != "rename":
        pitr("restore", "--at", "now", "--replace", code=6)
    assert sorted((disk.id, disk.name, disk.bootable) for disk in vm.disks) == sorted(before)
    assert {disk.id for disk in lab.disks} == {disk_id for disk_id, _, _ in before}


def _fails_at_third_call() -> Any:
    from pitr.errors import EngineBusy
    from pitr.ovirt.engine.attachments import rename_attached_disk

    calls = []

    def rename(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise EngineBusy("locked")
        rename_attached_disk(*arguments)

    return rename


def test_a_wrong_disk_is_detected_by_its_checksum_and_removed(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, tmp_path, pitr)
    before = {disk.id for disk in lab.disks}
    with mock.patch("pitr.ovirt.imageio.disk.ImageioWriter.write", lambda self, offset, data: None):
        refused = pitr("restore", "--at", "now", "--verify", "-o", "json", code=3)
    assert refused.error["type"] == "DamageError" and "checksum" in refused.complaint
    assert {disk.id for disk in lab.disks} == before
    target = tmp_path / "out.raw"
    with mock.patch("pitr.endpoints.images.raw_file.RawFileWriter.write", lambda self, offset, data: None):
        pitr("restore", "--at", "now", "--disk", "data", "--to-file", target, "--verify", code=3)
    assert not target.exists()
    pitr("restore", "--at", "now", "--disk", "data", "--to-file", target, "--verify")


def test_a_configuration_loses_disks_snapshots_and_addresses_and_keeps_the_rest() -> None:
    document = (
        '<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1/" '
        'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ovf:version="4.6.0.0">'
        '<References><File ovf:href="a/b"/><Nic ovf:id="n"/></References>'
        '<Section xsi:type="ovf:DiskSection_Type"><Info>d</Info><Disk ovf:diskId="b"/></Section>'
        '<Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type"><Name>old</Name><ClusterName>C &amp; D</ClusterName>'
        '<Section xsi:type="ovf:VirtualHardwareSection_Type">'
        "<Item><rasd:ResourceType>4</rasd:ResourceType></Item>"
        "<Item><rasd:ResourceType>17</rasd:ResourceType></Item>"
        "<Item><rasd:ResourceType>10</rasd:ResourceType><rasd:MACAddress>56:6f</rasd:MACAddress></Item>"
        '</Section><Section xsi:type="ovf:SnapshotsSection_Type"><Snapshot/></Section></Content></ovf:Envelope>'
    )
    new = ovf.for_new_vm(document, "<new>", keep_addresses=False)
    assert "<Name>&lt;new&gt;</Name>" in new and 'xsi:type="ovf:VirtualHardwareSection_Type"' in new
    for gone in ("<File", "<Disk", ">17<", "MACAddress", "Snapshot"):
        assert gone not in new
    assert ">4<" in new and ">10<" in new and "<Nic" in new and "<ovf:Envelope" in new
    assert "56:6f" in ovf.for_new_vm(document, "new", keep_addresses=True)
    assert ovf.cluster_name(document) == "C & D"
    for hostile in ("", "<a>", "<a/>", "<a><Content/></a>"):
        with pytest.raises(FormatError):
            ovf.for_new_vm(hostile, "new", keep_addresses=True)
