# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine refuses in a new VM is found before data flows; after a late refusal the restored disks stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.lab import Lab, LabVM
from pitr.ovirt.engine import is_alias, valid_alias
from tests.support.lab import MiB, assert_disk_is, oracle_of
from tests.support.pitr import Pitr

NAME = "Büro [alt]/disk 1"
FAULT = "<fault><reason>Operation Failed</reason><detail>[no way]</detail></fault>"


def _vm(lab: Lab, pitr: Pitr, tmp_path: Path, *names: str) -> tuple[LabVM, dict[str, Path]]:
    """Back up a VM whose disks have these names."""
    vm = lab.add_vm("web", nics=["nic1", "nic2"])
    for number, name in enumerate(names or ("system", "data")):
        vm.add_disk(name, MiB, bootable=number == 0)
    vm.start()
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(4096, disk.name.encode() * 1000)
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        pitr.backup("web")
    return vm, oracle


def _uploads(lab: Lab) -> int:
    """The number of uploads to disks that the engine knows."""
    return sum(transfer.direction == "upload" for transfer in lab.engine.state.transfers.values())


def test_a_vm_that_the_engine_refuses_is_refused_before_data_flows(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    _vm(lab, pitr, tmp_path)
    before, uploads = {disk.id for disk in lab.disks}, _uploads(lab)
    lab.engine.faults.next("POST", r"/api/vms$", status=409, body=FAULT)
    refused = pitr("restore", "--at", "now", "--as-new-vm", "web-new", code=6)
    assert "no way" in refused.complaint
    assert _uploads(lab) == uploads and {disk.id for disk in lab.disks} == before


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
@pytest.mark.parametrize("name", ["my vm", "x" * 256, "a\tb"])
def test_a_name_that_the_engine_refuses_is_refused_at_once(
    lab: Lab, pitr: Pitr, tmp_path: Path, name: str, dry_run: list[str]
) -> None:
    _vm(lab, pitr, tmp_path)
    uploads = _uploads(lab)
    refused = pitr("restore", "--at", "now", "--as-new-vm", name, *dry_run, code=2)
    assert "does not accept the VM name" in refused.complaint
    assert _uploads(lab) == uploads


def test_a_windows_vm_has_at_most_64_characters(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = lab.add_vm("win")
    lab.engine.state.vm(vm.id).os = "windows_2022"
    vm.add_disk("c", MiB)
    pitr.backup("win")
    assert "64" in pitr("restore", "--at", "now", "--as-new-vm", "w" * 65, code=2).complaint
    pitr("restore", "--at", "now", "--as-new-vm", "w" * 64)


@pytest.mark.parametrize("times", [1, 2])
def test_disks_that_cannot_be_attached_stay_and_the_message_says_how_to_go_on(
    lab: Lab, pitr: Pitr, tmp_path: Path, times: int
) -> None:
    vm, oracle = _vm(lab, pitr, tmp_path)
    before = {disk.id for disk in lab.disks}
    lab.engine.faults.next("POST", r"diskattachments$", status=409, body=FAULT, times=times)
    refused = pitr("restore", "--at", "now", "--as-new-vm", "web-new", code=6)
    new = [disk for disk in lab.disks if disk.id not in before]
    assert sorted(disk.name for disk in new) == ["data", "system"]
    attached = {disk.id for disk in lab.vm("web-new").disks}
    left = {disk.id for disk in new} - attached
    assert len(left) == times
    for word in ("no way", "attach", lab.vm("web-new").id, *left):
        assert word in refused.complaint
    by_name = {disk.name: disk.id for disk in vm.disks}
    for disk in new:
        assert disk.status == "ok"
        assert_disk_is(lab, disk.id, oracle[by_name[disk.name]], tmp_path)
    assert lab.open_transfers() == []


def test_new_disks_that_cannot_be_attached_stay_too(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm, _ = _vm(lab, pitr, tmp_path)
    before = {disk.id for disk in lab.disks}
    other = lab.add_vm("other")
    lab.engine.faults.next("POST", r"diskattachments$", status=409, body=FAULT, times=2)
    refused = pitr("restore", "--at", "now", "--attach-to", "other", "-o", "json", code=6)
    new = {disk.id for disk in lab.disks} - before
    assert len(new) == 2 and other.disks == []
    for word in ("no way", "attach", vm.name, *new):
        assert word in refused.complaint + vm.name


def test_invalid_aliases_are_made_valid_and_told(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, pitr, tmp_path, NAME, "Buro_[alt]_disk_1", "Buro__alt__disk_1", "x" * 300)
    done = pitr("restore", "--at", "now", "--as-new-vm", "web-new", "--output", "json")
    names = [disk.name for disk in lab.vm("web-new").disks]
    assert sorted(names) == sorted(
        ["Buro__alt__disk_1_3", "Buro__alt__disk_1_2", "Buro__alt__disk_1", "x" * 255]
    )
    for name in names:
        assert name == "Buro__alt__disk_1" or name in done.stderr.replace("\n", "")
        assert name == "Buro__alt__disk_1" or name in "".join(done.json["warnings"])
    planned = pitr("restore", "--at", "now", "--as-new-vm", "web-2", "--dry-run")
    assert "Buro__alt__disk_1_2" in planned.stderr.replace("\n", "")


def test_disks_beside_the_old_ones_and_replaced_disks_get_valid_aliases_too(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm, _ = _vm(lab, pitr, tmp_path, NAME, "x" * 255)
    document = pitr.json("restore", "--at", "now", "--attach-to", "web")
    new = [lab.disk(disk["target"]).name for disk in document["disks"]]
    assert new[0].startswith("Buro__alt__disk_1_restored_") and all(map(is_alias, new))
    assert len(new[1]) == 255 and "_restored_" in new[1]
    vm.stop()
    pitr("restore", "--at", "now", "--replace")
    names = {disk.name for disk in lab.disks}
    assert {"Buro__alt__disk_1", "x" * 255} <= names
    assert any(name.startswith("Buro__alt__disk_1_replaced_") for name in names)


def test_rename_gives_a_disk_another_alias(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm, _ = _vm(lab, pitr, tmp_path, NAME, "a=b")
    uploads = _uploads(lab)
    restore = ("restore", "--at", "now", "--as-new-vm", "web-new")
    for renames, code in (
        ([f"{NAME}=a b"], 2),
        ([f"{NAME}="], 2),
        (["nothing"], 2),
        ([f"{NAME}={'x' * 256}"], 2),
        ([f"{NAME}=x", "a=b=x"], 2),
        ([f"{NAME}=x", f"{NAME}=y"], 2),
        (["nothing=x"], 4),
    ):
        pitr(*restore, *(word for each in renames for word in ("--rename", each)), code=code)
        pitr(*restore, "--dry-run", *(word for each in renames for word in ("--rename", each)), code=code)
    assert _uploads(lab) == uploads
    pitr("restore", "--at", "now", "--to-file", tmp_path / "x/", "--rename", "a=b=x", code=2)
    pitr(*restore, "--rename", f"{vm.disks[0].id}=first", "--rename", "a=b=second")
    assert {disk.name for disk in lab.vm("web-new").disks} == {"first", "second"}
    document = pitr.json("restore", "--at", "now", "--disk", "a=b", "--rename", "a=b=c")
    assert lab.disk(document["disks"][0]["target"]).name == "c"


def test_an_interface_whose_network_is_gone_comes_back_without_it(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = lab.add_vm("web", nics=["nic1"])
    vm.add_disk("system", MiB)
    lab.engine.state.networks.append("dmz")
    lab.engine.state.vm(vm.id).network = "dmz"
    pitr.backup("web")
    pitr("restore", "--at", "now", "--as-new-vm", "web-1")
    lab.engine.state.networks.remove("dmz")
    done = pitr("restore", "--at", "now", "--as-new-vm", "web-2")
    assert "nic1" in done.stderr and "dmz" in done.stderr
    assert lab.vm("web-2").nics.keys() == {"nic1"}


def test_a_new_vm_without_a_network_can_run_beside_the_old_one(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = lab.add_vm("web", nics=["nic1", "nic2"])
    vm.add_disk("system", MiB)
    pitr.backup("web")
    done = pitr.json("restore", "--at", "now", "--as-new-vm", "web-1", "--no-network", "--start")
    new = lab.vm("web-1")
    assert new.nics.keys() == {"nic1", "nic2"} and lab.engine.state.vm(new.id).network == ""
    assert done["vm"]["status"] == "up" and done["warnings"] == [] and done["vm"]["twin"] is None
    connected = pitr.json("restore", "--at", "now", "--as-new-vm", "web-2")
    assert lab.engine.state.vm(lab.vm("web-2").id).network == "ovirtmgmt"
    assert connected["warnings"] and connected["vm"]["twin"]["id"] == vm.id
    refused = pitr("restore", "--at", "now", "--no-network", code=2)
    assert "--as-new-vm" in refused.complaint


def test_an_address_that_another_vm_uses_is_not_taken_again(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm, _ = _vm(lab, pitr, tmp_path)
    nics = vm.nics
    vm.stop()
    vm.remove()
    other = lab.add_vm("other")
    lab.engine.state.vm(other.id).nics["eth0"] = nics["nic1"].upper()
    done = pitr("restore", "--at", "now", "--as-new-vm", "web")
    assert "other" in done.stderr and nics["nic1"] in done.stderr
    new = lab.vm("web").nics
    assert new["nic2"] == nics["nic2"] and new["nic1"].lower() != nics["nic1"]


def test_a_vm_that_an_interrupted_restore_left_is_explained(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, pitr, tmp_path)
    lab.add_vm("web-new")
    refused = pitr("restore", "--at", "now", "--as-new-vm", "web-new", code=2)
    assert "already exists" in refused.complaint and "interrupted restore" in refused.complaint
    assert "interrupted" not in pitr("restore", "--at", "now", "--as-new-vm", "web", code=2).complaint


@pytest.mark.parametrize("name", ["disk", "Ärger", "日本", "a" * 400, "", ".", "a/b c", "x\n"])
def test_a_valid_alias_is_valid_and_always_the_same(name: str) -> None:
    assert is_alias(valid_alias(name)) and valid_alias(name) == valid_alias(name)
    assert is_alias(valid_alias(name, "_restored_1")) and valid_alias(name, "_1").endswith("_1")


@pytest.mark.parametrize("target", [["--as-new-vm", "web-new"], ["--attach-to", "web"]])
def test_a_storage_domain_of_another_data_center_is_refused_before_data_flows(
    lab: Lab, pitr: Pitr, tmp_path: Path, target: list[str]
) -> None:
    _vm(lab, pitr, tmp_path)
    uploads = _uploads(lab)
    far = lab.add_storage_domain("far")
    far.data_center_id = "11111111-2222-3333-4444-555555555555"
    refused = pitr("restore", "--at", "now", *target, "--storage-domain", far.id, code=2)
    assert "another data center" in refused.complaint
    assert _uploads(lab) == uploads


def test_a_disk_from_a_stream_gets_a_valid_alias(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    _vm(lab, pitr, tmp_path, NAME)
    stream = tmp_path / "stream"
    pitr("export", "web", "--at", "now", "--to", stream)
    restore = ("restore", "--from", stream, "--storage-domain", "data")
    before = {disk.id for disk in lab.disks}
    pitr(*restore)
    [new] = [disk for disk in lab.disks if disk.id not in before]
    assert new.name == "Buro__alt__disk_1"
    pitr(*restore, "--disk", "a b", code=2)
    pitr(*restore, "--disk", "fine")
    pitr(*restore, "--rename", f"{NAME}=fine", code=2)
