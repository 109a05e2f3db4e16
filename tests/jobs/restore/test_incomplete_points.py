# SPDX-License-Identifier: GPL-2.0-or-later
"""Points that lack disks of their VM: never restored as a whole without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr

_TIMES = ("2020-06-28T22:00:07Z", "2020-06-29T22:00:07Z", "2020-06-30T22:00:07Z")


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    """A VM with two disks, and with two that the engine cannot back up."""
    made = make_vm(lab, MiB, MiB)
    made.attach(lab.add_lun("lun", 1 << 30))
    made.attach(lab.add_disk("shared", MiB, shareable=True))
    return made


@pytest.fixture
def points(lab: Lab, pitr: Pitr, vm: LabVM) -> list[Any]:
    """Two complete points, then one of the first disk only."""
    made = []
    for moment, options in zip(_TIMES, ((), (), ("--disk", "d0")), strict=True):
        lab.clock.set(moment, frozen=True)
        made.append(pitr.backup(vm.name, *options))
    return made


def _planned(pitr: Pitr, vm: LabVM, *options: str | Path) -> Any:
    return pitr.json("restore", vm.name, *options, "--dry-run")


def test_a_point_tells_what_it_lacks(pitr: Pitr, vm: LabVM, points: list[Any]) -> None:
    listed = pitr.json("list", vm.name)["points"]
    assert [point["complete"] for point in listed] == [False, True, True]
    missing = {"disk_id": vm.disks[1].id, "name": "d1", "reason": "not selected"}
    assert listed[0]["missing_disks"] == [missing] and listed[1]["missing_disks"] == []
    causes = {disk["name"]: disk["cause"] for disk in listed[0]["left_out"]}
    assert causes == {"d1": "chosen", "lun": "unable", "shared": "unable"}
    assert "1 of 2" in pitr("list", vm.name).stdout
    assert "Left out: d1" in pitr("show", points[2]["backup_id"]).stdout
    # It is in the record, not only in the catalog.
    pitr("catalog", "rebuild")
    assert pitr.json("list", vm.name)["points"] == listed


def test_a_written_time_prefers_complete_points_and_says_so(pitr: Pitr, vm: LabVM, points: list[Any]) -> None:
    for at in ("2020-06-30T22:00Z", "2020-07-01", "@1593554407"):
        document = _planned(pitr, vm, "--at", at)
        assert document["point"]["backup_id"] == points[1]["backup_id"]
        assert document["warnings"] == [] and document["next_point"] == _TIMES[2]
    said = pitr("restore", vm.name, "--at", "2020-07-01", "--dry-run").stderr.splitlines()[0]
    assert "prefers complete points" in said and "lacks disk d1" in said
    assert f"--point {points[2]['backup_id']} takes it" in said
    assert pitr.json("drill", vm.name, "--at", "2020-07-01")["point"]["backup_id"] == points[1]["backup_id"]


def test_with_named_disks_only_those_count(pitr: Pitr, vm: LabVM, points: list[Any]) -> None:
    document = _planned(pitr, vm, "--at", "2020-07-01", "--disk", "d0")
    assert document["point"]["backup_id"] == points[2]["backup_id"] and document["warnings"] == []
    assert _planned(pitr, vm, "--at", "2020-07-01", "--disk", "d1")["point"] == points[1]
    assert _planned(pitr, vm, "--point", points[2]["backup_id"], "--as-new-vm", "new", "--disk", "d0")
    missing = pitr("restore", vm.name, "--at", "now", "--disk", "d1", "--dry-run", code=4).complaint
    assert "holds no disk 'd1': not selected" in missing


@pytest.mark.parametrize("at", ["now", "latest"])
def test_now_takes_the_newest_point_and_warns(
    pitr: Pitr, vm: LabVM, points: list[Any], at: str, tmp_path: Path
) -> None:
    result = pitr("restore", vm.name, "--at", at, "--to-file", tmp_path / "disk.raw", "-o", "json")
    assert result.json["point"]["backup_id"] == points[2]["backup_id"]
    (warning,) = result.json["warnings"]
    assert "incomplete" in warning and "d1" in warning and "not selected" in warning
    assert f"warning: {warning}" in result.stderr
    assert "lun" not in warning


def test_a_new_vm_and_a_replacement_need_a_complete_point(
    lab: Lab, pitr: Pitr, vm: LabVM, points: list[Any]
) -> None:
    vm.stop()
    before = {disk.id for disk in lab.disks}
    for target in (("--as-new-vm", "rescued"), ("--replace",)):
        for which in (("--at", "now"), ("--point", points[2]["backup_id"])):
            for dry_run in ((), ("--dry-run",)):
                refused = pitr("restore", vm.name, *which, *target, *dry_run, code=2).complaint
                assert "d1" in refused and "--incomplete" in refused
                assert points[1]["backup_id"] in refused
    assert {disk.id for disk in lab.disks} == before
    done = pitr("restore", vm.name, "--at", "now", "--as-new-vm", "rescued", "--incomplete", "-o", "json")
    assert len(done.json["disks"]) == 1 and "incomplete" in done.json["warnings"][0]
    assert "warning" in done.stderr


def test_a_vm_with_incomplete_points_only_gives_the_newest_with_a_warning(
    lab: Lab, pitr: Pitr, vm: LabVM
) -> None:
    for moment in _TIMES[:2]:
        lab.clock.set(moment, frozen=True)
        newest = pitr.backup(vm.name, "--exclude-disk", "d1")
    for at in ("2020-06-30", "now"):
        document = _planned(pitr, vm, "--at", at)
        assert document["point"] == newest and len(document["warnings"]) == 1


def test_a_point_without_what_the_engine_cannot_back_up_is_complete(pitr: Pitr, vm: LabVM) -> None:
    point = pitr.backup(vm.name)
    assert point["complete"] and len(point["left_out"]) == 2
    warnings = _planned(pitr, vm, "--at", "now", "--as-new-vm", "new")["warnings"]
    assert not any("incomplete" in warning for warning in warnings)
