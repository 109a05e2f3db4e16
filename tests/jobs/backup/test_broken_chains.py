# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains that break: the same run compares the disks concerned, says why, and every point restores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import KiB, MiB, assert_restores, make_vm, oracle_of
from tests.support.pitr import Pitr


def _lose(lab: Lab, vm: LabVM) -> None:
    lab.engine.lose_checkpoints(vm.id)


def _invalidate(lab: Lab, vm: LabVM) -> None:
    lab.engine.invalidate_checkpoint(vm.checkpoints[-1])


def _restore_snapshot(lab: Lab, vm: LabVM) -> None:
    lab.engine.restore_snapshot(vm.id)


def _break_at_the_start(lab: Lab, vm: LabVM) -> None:
    lab.engine.lose_checkpoints(vm.id, at_next_backup=True)


def _fail_to_start(lab: Lab, vm: LabVM) -> None:
    lab.engine.faults.fail("backup start")


def _crash(lab: Lab, vm: LabVM) -> None:
    vm.crash()
    vm.start()


def _reattach_all(lab: Lab, vm: LabVM) -> None:
    for disk in vm.disks:
        vm.detach(disk)
        vm.attach(disk)


BREAKS: dict[str, tuple[Callable[[Lab, LabVM], None], str]] = {
    "checkpoints gone": (_lose, "engine no longer has the checkpoint"),
    "checkpoint invalid": (_invalidate, "invalid on the engine"),
    "snapshot restored": (_restore_snapshot, "invalid on the engine"),
    "live redefine failed": (_break_at_the_start, "checkpoint"),
    "incremental start failed": (_fail_to_start, "did not become ready"),
    "bitmaps lost with the VM's qemu": (_crash, "did not become ready"),
    "disks detached and attached again": (_reattach_all, "engine no longer has the checkpoint"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_chain_that_breaks_is_continued_by_a_comparison_in_the_same_run(
    lab: Lab, pitr: Pitr, tmp_path: Path, name: str
) -> None:
    break_it, reason = BREAKS[name]
    vm = make_vm(lab, 2 * MiB, MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * MiB)
    with oracle_of(lab, tmp_path / "1") as first:
        before = pitr.backup(vm.name)
    break_it(lab, vm)
    with vm.disks[0].guest() as guest:
        guest.write(512 * KiB, b"B" * 100)
    with oracle_of(lab, tmp_path / "2") as second:
        document = pitr("backup", vm.name, "--incremental", "-o", "json")
    (point,) = document.json["backups"]
    assert (point["kind"], point["parent_id"]) == ("incremental", before["backup_id"])
    assert point["from_checkpoint_id"] is None
    assert reason in point["reason"]
    assert reason in document.stderr
    assert reason.split()[0] in " ".join(pitr("list", vm.name).stdout.split())
    assert {(disk["kind"], disk["changes"]) for disk in point["disks"]} == {("incremental", "compared")}
    # Only the block that changed is stored. A crash loses what qemu has not written yet.
    assert (
        break_it is _crash
        or sum(disk["data_bytes"] + disk["zero_bytes"] for disk in point["disks"]) == 64 * KiB
    )
    with oracle_of(lab, tmp_path / "3") as third:
        after = pitr.backup(vm.name, "--incremental", "--no-fallback")
    assert after["parent_id"] == point["backup_id"]
    assert {disk["changes"] for disk in after["disks"]} == {"tracked"}
    for taken, oracle in ((before, first), (point, second), (after, third)):
        assert_restores(pitr, lab, taken, oracle, tmp_path)


@pytest.mark.parametrize("name", ["checkpoints gone", "live redefine failed", "incremental start failed"])
def test_without_fallback_a_broken_chain_is_refused(lab: Lab, pitr: Pitr, name: str) -> None:
    break_it, reason = BREAKS[name]
    vm = make_vm(lab, MiB)
    pitr.backup(vm.name)
    break_it(lab, vm)
    assert reason in pitr("backup", vm.name, "--incremental", "--no-fallback", code=6).complaint
    assert len(pitr.json("list")["points"]) == 1


def test_one_disk_whose_bitmap_the_host_lost_is_compared_and_the_other_tracked(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, MiB, MiB)
    pitr.backup(vm.name)
    with vm.disks[1].guest() as guest:
        guest.write(0, b"C" * 4096)
    lab.engine.faults.fail("bitmap")
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert {disk["name"]: disk["changes"] for disk in point["disks"]} == {"d0": "compared", "d1": "tracked"}
    assert point["kind"] == "incremental" and point["reason"] is None
    (compared,) = [disk for disk in point["disks"] if disk["changes"] == "compared"]
    assert "no list of changes since the checkpoint" in compared["reason"]
    assert (compared["data_bytes"], compared["zero_bytes"]) == (0, 0)
    shown = " ".join(pitr("show", point["backup_id"]).stdout.split())
    assert "d0: ovirt-imageio" in shown
    assert_restores(pitr, lab, point, oracle, tmp_path)
    lab.engine.faults.fail("bitmap")
    refused = pitr("backup", vm.name, "--no-fallback", code=6)
    assert "no list of changes since the checkpoint" in refused.complaint


def test_a_disk_detached_and_attached_again_is_compared_and_the_others_are_tracked(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, MiB, MiB)
    pitr.backup(vm.name)
    second = vm.disks[1]
    vm.detach(second)
    vm.attach(second)
    refused = pitr("backup", vm.name, "--no-fallback", code=6)
    assert "d1" in refused.complaint
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert {disk["name"]: disk["changes"] for disk in point["disks"]} == {"d0": "tracked", "d1": "compared"}
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_checkpoints_of_another_product_are_left_alone(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB)
    pitr.backup(vm.name)
    other = Pitr({**pitr.environment, "PITR_REPO": str(tmp_path / "other")})
    other("init")
    assert other.backup(vm.name)["kind"] == "full"
    with vm.disks[0].guest() as guest:
        guest.write(0, b"D" * 4096)
    ours, theirs = vm.checkpoints
    with oracle_of(lab, tmp_path) as oracle:
        point: Any = pitr.backup(vm.name, "--incremental", "--no-fallback")
    assert point["from_checkpoint_id"] == ours
    assert theirs in vm.checkpoints
    assert_restores(pitr, lab, point, oracle, tmp_path)
