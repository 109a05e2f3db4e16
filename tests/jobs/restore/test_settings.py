# SPDX-License-Identifier: GPL-2.0-or-later
"""A restored disk has the settings of the old disk; a setting that it cannot have is told."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pitr.endpoints.images.qcow2_size import qcow2_size
from pitr.extents import ExtentMap
from pitr.lab import Lab, LabDisk, LabVM
from pitr.lab.engine.state import Attachment, Disk, StorageDomain
from pitr.system.process import run
from tests.support.lab import KiB, MiB, assert_disk_is, oracle_of
from tests.support.pitr import Pitr

GiB = 1 << 30


def _vm(lab: Lab) -> LabVM:
    """A VM with a disk of which nearly every setting differs from the engine's default, and a plain one."""
    gold = lab.engine.state.storage_domains
    domain = next(each for each in gold.values() if each.name == "data")
    domain.profiles = {"p-default": "data", "p-gold": "gold"}
    vm = lab.add_vm("web")
    vm.add_disk("system", MiB, bootable=True, sparse=False)
    vm.add_disk("data", 2 * MiB, format="raw", sparse=False)
    vm.add_disk("plain", MiB)
    for disk in vm.disks[:2]:
        held, attachment = _entities(lab, disk)
        held.description = f"what {disk.name} is for"
        held.wipe_after_delete = held.propagate_errors = True
        held.profile_id = "p-gold"
        attachment.pass_discard = attachment.uses_scsi_reservation = True
        attachment.read_only = disk.name == "data"
    _entities(lab, vm.disks[2])[0].profile_id = "p-default"
    return vm


def _domain(lab: Lab, storage_type: str = "nfs") -> StorageDomain:
    """A storage domain with a name of its own: the lab outlives the test."""
    return lab.add_storage_domain(f"sd-{random.getrandbits(40):x}", storage_type=storage_type)


def _entities(lab: Lab, disk: LabDisk) -> tuple[Disk, Attachment]:
    state = lab.engine.state
    return state.disk(disk.id), state.vms_of(disk.id)[0].attachments[disk.id]


def _settings(lab: Lab, disk: LabDisk) -> tuple[object, ...]:
    held, attachment = _entities(lab, disk)
    return (
        *(held.format, held.sparse, held.incremental, held.wipe_after_delete, held.propagate_errors),
        *(held.profile_id, attachment.interface, attachment.bootable, attachment.active),
        *(attachment.read_only, attachment.pass_discard, attachment.uses_scsi_reservation),
    )


def _descriptions(lab: Lab, vm: LabVM) -> dict[str, str]:
    return {disk.name: lab.engine.state.disk(disk.id).description for disk in vm.disks}


@pytest.mark.parametrize("way", ["new VM", "replace", "lost VM", "rebuilt"])
def test_a_restored_disk_has_the_settings_of_the_old_one(
    lab: Lab, pitr: Pitr, tmp_path: Path, way: str
) -> None:
    vm = _vm(lab)
    with oracle_of(lab, tmp_path / "oracle") as oracle:
        pitr.backup("web")
    before = {disk.name: _settings(lab, disk) for disk in vm.disks}
    old = {disk.id: disk.name for disk in vm.disks}
    new = vm
    if way == "replace":
        document = pitr.json("restore", "--at", "now", "--replace")
    else:
        if way == "lost VM":
            vm.remove()
        if way == "rebuilt":
            pitr("catalog", "rebuild")
        document = pitr.json("restore", "--at", "now", "--as-new-vm", "new")
        new = lab.vm("new")
    assert {disk.name: _settings(lab, disk) for disk in new.disks} == before
    described = _descriptions(lab, new)
    assert described["system"] == "what system is for" and described["data"] == "what data is for"
    for disk in document["disks"]:
        assert old[disk["disk_id"]] == lab.disk(disk["target"]).name
        assert_disk_is(lab, disk["target"], oracle[disk["disk_id"]], tmp_path)


def test_a_replaced_disk_takes_the_settings_of_today(lab: Lab, pitr: Pitr) -> None:
    vm = _vm(lab)
    fast = _domain(lab)
    pitr.backup("web")
    plain = vm.disks[2]
    held, attachment = _entities(lab, plain)
    held.wipe_after_delete, attachment.pass_discard, attachment.interface = True, True, "sata"
    plain.move(fast.name)
    before = _settings(lab, plain)[:5] + _settings(lab, plain)[6:]
    pitr("restore", "--at", "now", "--replace", "--disk", "plain")
    new = next(disk for disk in vm.disks if disk.name == "plain")
    assert _settings(lab, new)[:5] + _settings(lab, new)[6:] == before
    assert lab.engine.state.disk(new.id).storage_domain_id == held.storage_domain_id


def test_settings_that_cannot_be_restored_are_named(lab: Lab, pitr: Pitr) -> None:
    _vm(lab)
    pitr.backup("web")
    block = _domain(lab, "iscsi")
    for dry_run in (["--dry-run"], []):
        done = pitr(
            *("restore", "--at", "now", "--as-new-vm", "new"), "--storage-domain", block.name, *dry_run
        )
        assert done.stderr.count("default disk profile") == 2 and "gold" in done.stderr
    lab.add_vm("other").add_disk("thin", MiB, format="raw")
    pitr.backup("other")
    done = pitr("restore", "other", "--at", "now", "--storage-domain", block.name, "--dry-run")
    assert "thin" in done.stderr and "qcow2" in done.stderr


def test_a_profile_of_the_same_name_is_used_on_another_domain(lab: Lab, pitr: Pitr) -> None:
    _vm(lab)
    pitr.backup("web")
    fast = _domain(lab)
    fast.profiles = {"p-fast": fast.name, "p-gold-2": "gold"}
    done = pitr("restore", "--at", "now", "--as-new-vm", "new", "--storage-domain", fast.name)
    used = {disk.name: lab.engine.state.disk(disk.id).profile_id for disk in lab.vm("new").disks}
    assert used == {"system": "p-gold-2", "data": "p-gold-2", "plain": "p-fast"}
    assert "profile" not in done.stderr


def test_an_option_that_the_engine_refuses_does_not_cost_the_disk(lab: Lab, pitr: Pitr) -> None:
    _vm(lab)
    pitr.backup("web")
    fault = "<fault><reason>Operation Failed</reason><detail>[no pass discard here]</detail></fault>"
    lab.engine.faults.next("POST", "diskattachments$", status=409, body=fault)
    done = pitr("restore", "--at", "now", "--as-new-vm", "new")
    assert "pass-discard" in done.stderr and "no pass discard here" in done.stderr
    assert len(lab.vm("new").disks) == 3


def test_a_record_holds_only_settings_that_differ_from_the_defaults(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = lab.add_vm("web")
    vm.add_disk("system", MiB)
    pitr.backup("web")
    [record] = pitr.repository.glob("backups/*/*.json")
    keys = set(json.loads(record.read_bytes())["private"]["disks"][0]["settings"])
    assert keys == {
        *("format", "sparse", "interface", "bootable", "active", "backup_enabled", "storage_domain_id")
    }


@pytest.mark.parametrize("size", [4 * KiB, MiB, 10487296, 5 * GiB, 700 * GiB, 9000 * GiB])
@pytest.mark.parametrize("parts", [0, 1, 40])
def test_the_size_of_a_qcow2_image_is_what_qemu_measures(tmp_path: Path, size: int, parts: int) -> None:
    image = tmp_path / "image.raw"
    extents: list[tuple[int, int, bool]] = []
    with image.open("wb") as file:
        file.truncate(size)
        for number in range(parts):
            start = number * size // (parts or 1) // 4096 * 4096
            if extents and start <= extents[-1][0] + 4096:
                continue
            file.seek(start)
            file.write(b"x" * min(4096, size - start))
            extents.append((start, min(4096, size - start), False))
    measured = json.loads(
        run(["qemu-img", "measure", "--output=json", "-f", "raw", "-O", "qcow2", str(image)])
    )
    assert qcow2_size(size, ExtentMap.of(extents)) >= measured["required"]
    assert qcow2_size(size, ExtentMap.of([(0, size, False)])) >= measured["fully-allocated"]
    # Not much more: qemu looks at the file system's blocks.
    assert qcow2_size(size, ExtentMap.of(extents)) <= measured["required"] + len(extents) * 64 * KiB


def test_a_disk_on_block_storage_starts_at_the_size_that_its_data_needs(lab: Lab, pitr: Pitr) -> None:
    block = _domain(lab, "iscsi")
    vm = lab.add_vm("web")
    disk = vm.add_disk("system", 16 * MiB)
    vm.start()
    with disk.guest() as guest:
        for number in range(64):
            guest.write(number * 256 * KiB + 60 * KiB, b"x" * 8 * KiB)
    pitr.backup("web")
    document = pitr.json("restore", "--at", "now", "--storage-domain", block.name)
    new = lab.disk(document["disks"][0]["target"])
    measured = json.loads(
        run(["qemu-img", "measure", "--output=json", "-f", "qcow2", "-O", "qcow2", str(new.image)])
    )
    initial = lab.engine.state.disk(new.id).initial_size
    assert initial is not None and initial >= measured["required"]
