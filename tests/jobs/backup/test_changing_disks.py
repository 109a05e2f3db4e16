# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that come, go, grow, shrink and change between points; disks that no backup can hold; the three modes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import KiB, MiB, assert_restores, make_vm, oracle_of
from tests.support.pitr import Pitr


class _Story:
    """Takes points with their oracles, and restores them all at the end."""

    def __init__(self, lab: Lab, pitr: Pitr, folder: Path, vm: LabVM) -> None:
        self.lab, self.pitr, self.folder, self.vm = lab, pitr, folder, vm
        self.points: list[tuple[Any, dict[str, Path]]] = []

    def back_up(self, *options: str) -> dict[str, str]:
        """Take a point; return the kind of each of its disks by name."""
        with oracle_of(self.lab, self.folder / str(len(self.points))) as oracle:
            point = self.pitr.backup(self.vm.name, *options)
        self.points.append((point, oracle))
        return {disk["name"]: disk["kind"] for disk in point["disks"]}

    def assert_all_restore(self) -> None:
        for point, oracle in self.points:
            assert_restores(self.pitr, self.lab, point, oracle, self.folder)
        assert self.pitr.json("verify")["ok"]


@pytest.mark.parametrize("running", [True, False])
def test_disks_that_are_added_renamed_moved_grown_and_removed(
    lab: Lab, pitr: Pitr, tmp_path: Path, running: bool
) -> None:
    lab.add_storage_domain("other")
    vm = make_vm(lab, 2 * MiB, MiB + 512, running=running)
    story = _Story(lab, pitr, tmp_path, vm)
    assert story.back_up() == {"d0": "full", "d1": "full"}
    vm.disks[0].rename("renamed")
    vm.disks[0].move("other")
    vm.disks[0].grow(3 * MiB)
    vm.disks[1].grow(2 * MiB)
    vm.add_disk("added", MiB)
    if running:
        with vm.disks[0].guest() as guest:
            guest.write(3 * MiB - 100 * KiB, b"A" * 100 * KiB)
    assert story.back_up() == {"renamed": "incremental", "d1": "incremental", "added": "full"}
    sizes = {disk["name"]: disk["size"] for disk in story.points[-1][0]["disks"]}
    assert sizes == {"renamed": 3 * MiB, "d1": 2 * MiB, "added": MiB}
    vm.detach(vm.disks[1])
    assert story.back_up() == {"renamed": "incremental", "added": "incremental"}
    story.assert_all_restore()


def test_a_disk_that_shrinks_with_a_restored_snapshot_and_one_that_changes_its_format(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 3 * MiB, MiB, formats=("cow", "raw"))
    with vm.disks[0].guest() as guest:
        guest.write(0, b"B" * 3 * MiB)
    story = _Story(lab, pitr, tmp_path, vm)
    story.back_up()
    vm.stop()
    vm.disks[0].replace(2 * MiB, "cow")
    vm.disks[1].replace(MiB, "cow")
    assert story.back_up() == {"d0": "incremental", "d1": "incremental"}
    assert {disk["changes"] for disk in story.points[-1][0]["disks"]} == {"compared"}
    assert story.back_up() == {"d0": "incremental", "d1": "incremental"}
    vm.disks[1].replace(MiB, "raw")
    assert story.back_up() == {"d0": "incremental", "d1": "incremental"}
    assert [disk["reason"] for disk in story.points[-1][0]["disks"]] == [None, "the disk is raw"]
    assert [disk["changes"] for disk in story.points[-1][0]["disks"]] == ["tracked", "compared"]
    story.assert_all_restore()


def test_what_no_backup_can_hold_is_left_out_and_said(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB, MiB, running=False)
    vm.attach(lab.add_lun("lun", 1 << 30))
    vm.attach(lab.add_disk("shared", MiB, shareable=True))
    result = pitr("backup", vm.name, "--exclude-disk", "d1", "-o", "json")
    (point,) = result.json["backups"]
    assert [disk["name"] for disk in point["disks"]] == ["d0"]
    reasons = {item["name"]: item["reason"] for item in point["left_out"]}
    assert reasons.keys() == {"d1", "lun", "shared"} and reasons["d1"] == "excluded"
    assert "lun" in reasons["lun"] and "shareable" in reasons["shared"]
    shown = " ".join(pitr("show", point["backup_id"]).stdout.split())
    for name in reasons:
        assert f"disk {name} (" in result.stderr
        assert f"Left out: {name} (" in shown
    assert "no disk 'nothing'" in pitr("backup", vm.name, "--exclude-disk", "nothing", code=4).complaint


def test_a_vm_without_disks_is_one_clear_line(lab: Lab, pitr: Pitr) -> None:
    empty = lab.add_vm("empty")
    only_lun = lab.add_vm("only-lun")
    only_lun.attach(lab.add_lun("lun", 1 << 30))
    for vm in (empty, only_lun):
        assert "no disk that can be backed up" in pitr("backup", vm.name, code=4).complaint
    document = pitr.json("backup", "--all")
    assert (document["backups"], document["failed"]) == ([], [])
    assert {item["vm"] for item in document["skipped"]} == {"empty", "only-lun"}


@pytest.mark.parametrize(
    ("compat", "running", "mode"), [("4.6", True, "live"), ("4.6", False, "cold"), ("4.7", True, "hybrid")]
)
def test_the_interval_of_a_point_follows_the_mode(
    lab: Lab, pitr: Pitr, compat: str, running: bool, mode: str
) -> None:
    vm = make_vm(lab, MiB, compat=compat, running=running)
    result = pitr("backup", vm.name, "--require-consistency", "-o", "json")
    (point,) = result.json["backups"]
    backup = lab.engine.state.backups[point["backup_id"]]
    checkpoint = lab.engine.state.checkpoint(vm.id, point["checkpoint_id"])
    lo, hi = (datetime.fromisoformat(point[key]) for key in ("lo", "point"))
    assert point["mode"] == mode
    # The engine writes milliseconds.
    assert abs((lo - (checkpoint.created if mode == "live" else backup.created)).total_seconds()) < 0.002
    if mode == "hybrid":
        assert abs((hi - checkpoint.created).total_seconds()) < 0.002
    assert backup.created <= hi <= backup.modified
    assert point["consistency"] == ("frozen" if mode == "live" else "unknown")
    assert ("unknown" in result.stderr) == (mode == "hybrid")


def test_consistency_that_is_required_and_cannot_be_had_is_refused(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB)
    lab.engine.set_vm(vm.id, freeze_fails=True)
    pitr("backup", vm.name, "--require-consistency", code=6)
    assert pitr.backup(vm.name)["consistency"] == "unknown"


def test_a_snapshot_that_the_engine_could_not_remove_is_told_of(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB, compat="4.7")
    assert "snapshot" not in pitr("backup", vm.name).stderr
    lab.engine.faults.fail("snapshot removal")
    told = pitr("backup", vm.name).stderr
    (snapshot,) = lab.engine.state.vm(vm.id).snapshots_left
    assert f"snapshot {snapshot}" in told
