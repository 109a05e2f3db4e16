# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints that are gone, invalid, or not what the engine believes: a comparison instead, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB, assert_restores, make_vm, nothing_open, oracle_of
from tests.support.pitr import Pitr


@pytest.fixture
def vm(lab: Lab, pitr: Pitr) -> LabVM:
    """A running VM with two disks and two points; changed since."""
    vm = make_vm(lab, 2 * MiB, MiB)
    for number in range(3):
        for disk in vm.disks:
            with disk.guest() as guest:
                guest.write(number * 4096, bytes([65 + number]) * 70000)
        if number < 2:
            pitr.backup(vm.name)
    return vm


def assert_next_is_compared(lab: Lab, pitr: Pitr, vm: LabVM, folder: Path) -> Any:
    before = pitr.json("list")["points"][0]
    with oracle_of(lab, folder) as oracle:
        result = pitr("backup", "--incremental", "--output", "json")
    (point,) = result.json["backups"]
    assert {disk["changes"] for disk in point["disks"]} == {"compared"}
    assert point["parent_id"] == before["backup_id"] and point["from_checkpoint_id"] is None
    assert point["reason"] and point["reason"] in result.stderr
    assert_restores(pitr, lab, point, oracle, folder)
    assert nothing_open(lab)
    assert pitr.json("list")["points"][0]["reason"] == point["reason"]
    with oracle_of(lab, folder / "next") as oracle:
        following = pitr.backup(vm.name, "--no-fallback")
    assert {disk["changes"] for disk in following["disks"]} == {"tracked"}
    assert following["parent_id"] == point["backup_id"]
    assert_restores(pitr, lab, following, oracle, folder)
    return point


def refused(lab: Lab, pitr: Pitr) -> None:
    points = pitr.json("list")
    assert "--no-fallback" in pitr("backup", "--incremental", "--no-fallback", code=6).complaint
    assert nothing_open(lab) and pitr.json("list") == points


def test_lost_checkpoints_make_a_comparison_and_say_so(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    lab.engine.lose_checkpoints(vm.id)
    refused(lab, pitr)
    assert "no longer has the checkpoint" in assert_next_is_compared(lab, pitr, vm, tmp_path)["reason"]


def test_an_invalid_checkpoint_makes_a_comparison_and_says_so(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    lab.engine.restore_snapshot(vm.id)
    refused(lab, pitr)
    assert "invalid" in assert_next_is_compared(lab, pitr, vm, tmp_path)["reason"]


def test_a_chain_that_is_lost_as_the_backup_starts(lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    lab.engine.lose_checkpoints(vm.id, at_next_backup=True)
    assert_next_is_compared(lab, pitr, vm, tmp_path)


def test_a_chain_that_is_lost_as_the_backup_starts_and_no_fallback(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    lab.engine.lose_checkpoints(vm.id, at_next_backup=True)
    refused(lab, pitr)


def test_an_incremental_backup_that_fails_on_the_host(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    lab.engine.faults.fail("backup start")
    assert_next_is_compared(lab, pitr, vm, tmp_path)


@pytest.mark.parametrize("compat", ["4.6", "4.7"])
def test_a_crash_that_lost_the_bitmaps_makes_a_comparison(
    lab: Lab, pitr: Pitr, tmp_path: Path, compat: str
) -> None:
    """The engine still lists the checkpoints, and finds out when it is asked for an incremental."""
    vm = make_vm(lab, 2 * MiB, compat=compat)
    pitr.backup(vm.name)
    with vm.disks[0].guest() as guest:
        guest.write(0, b"L" * MiB)
    vm.crash()
    vm.start()
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name, "--incremental")
    assert point["disks"][0]["changes"] == "compared"
    assert point["disks"][0]["reason"]
    assert_restores(pitr, lab, point, oracle, tmp_path)
    assert nothing_open(lab)


def test_dirty_extents_that_are_missing_make_this_disk_compared_in_the_same_run(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine says incremental, the ticket has no bitmap: imageio answers 404."""
    first = vm.disks[0]
    add_ticket, asked = lab.host.add_ticket, []

    def without_bitmap(ticket_id: str, **ticket: Any) -> None:
        asked.append(ticket["dirty"])
        add_ticket(ticket_id, **{**ticket, "dirty": ticket["dirty"] and ticket["size"] != first.size})

    monkeypatch.setattr(lab.host, "add_ticket", without_bitmap)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert asked == [True, True]
    assert [disk["changes"] for disk in point["disks"]] == ["compared", "tracked"]
    assert "no list of changes" in point["disks"][0]["reason"]
    assert point["kind"] == "incremental"
    assert_restores(pitr, lab, point, oracle, tmp_path)
    refused(lab, pitr)
    monkeypatch.undo()
    with oracle_of(lab, tmp_path / "next") as oracle:
        point = pitr.backup(vm.name)
    assert {disk["changes"] for disk in point["disks"]} == {"tracked"}
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_checkpoints_that_other_products_delete_are_no_harm(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    """The engine merges what changed into the one before; only one of ours still counts."""
    from pitr.ovirt.engine import Engine, delete_checkpoint, load_config

    other = pitr.with_environment(PITR_REPO=str(tmp_path / "other"))
    other("init")
    other("backup", vm.name)
    with vm.disks[0].guest() as guest:
        guest.write(MiB, b"Z" * 5000)
    other("backup", vm.name)
    newest = pitr.json("list")["points"][0]
    assert vm.checkpoints[0] == newest["checkpoint_id"]
    with Engine(load_config(environ=lab.environment()), poll_interval_s=0.05) as engine:
        for checkpoint_id in vm.checkpoints[1:]:
            delete_checkpoint(engine, vm.id, checkpoint_id)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name, "--no-fallback")
    assert point["parent_id"] == newest["backup_id"]
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_checkpoints_of_other_products_are_not_ours(lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    other = pitr.with_environment(PITR_REPO=str(tmp_path / "other"))
    other("init")
    assert other.backup(vm.name)["kind"] == "full"
    newest = pitr.json("list")["points"][0]
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name, "--no-fallback")
    assert point["from_checkpoint_id"] == newest["checkpoint_id"]
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_late_checkpoint_id_is_waited_for(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    lab.engine.phase_lag_s = 0.3
    point = pitr.backup(vm.name)
    assert point["checkpoint_id"] == vm.checkpoints[-1]


def test_a_snapshot_that_is_left_is_no_failure(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB, compat="4.7")
    lab.engine.faults.fail("snapshot removal")
    pitr.backup(vm.name)


def test_a_configuration_that_is_absent_for_once_is_asked_for_again(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    lab.engine.faults.fail("configuration")
    said = pitr("backup", vm.name).stderr
    assert "configuration" not in said
    (record,) = (pitr.repository / "backups" / vm.id).glob(
        f"*{pitr.json('list')['points'][0]['backup_id']}.json"
    )
    digest = json.loads(record.read_bytes())["configuration"]["digest"]
    assert "Envelope" in (pitr.repository / "configurations" / digest).read_text()
