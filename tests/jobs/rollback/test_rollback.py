# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr rollback` against the local oVirt, with real disks: the right bytes, nothing more sent, and a way back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from pitr.repository import Repository, rollbacks
from tests.support.lab import MiB, make_vm, nothing_open
from tests.support.pitr import Pitr

SIZE = 8 * MiB
MODES: tuple[list[str], ...] = ([], ["--in-place"])


def _content(lab: Lab, disk_id: str, folder: Path) -> bytes:
    copy = folder / f"{disk_id}.content"
    copy.unlink(missing_ok=True)
    lab.disk(disk_id).copy_content(copy)
    return copy.read_bytes()


def _contents(lab: Lab, vm: LabVM, folder: Path) -> dict[str, bytes]:
    return {disk.name: _content(lab, disk.id, folder) for disk in lab.vm(vm.id).disks}


@pytest.fixture
def vm(lab: Lab) -> LabVM:
    made = make_vm(lab, SIZE, SIZE)
    for number, disk in enumerate(made.disks):
        with disk.guest() as guest:
            guest.write(0, bytes([65 + number]) * MiB)
            guest.write(4 * MiB, b"same" * (MiB // 4))
    return made


def _changed_since_a_point(lab: Lab, pitr: Pitr, vm: LabVM, folder: Path) -> tuple[Any, dict[str, bytes]]:
    """Take a point, change the disks, take another, and change a disk again. Return the first point and its content."""
    first = pitr.backup(vm.name)
    vm.stop()
    at_first = _contents(lab, vm, folder)
    vm.start()
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(64 * 1024, b"x" * 64 * 1024)
            guest.zero(4 * MiB + 512 * 1024, 128 * 1024, unmap=True)
            guest.write(6 * MiB, b"new" * 1000)
    pitr.backup(vm.name)
    with vm.disks[0].guest() as guest:
        guest.write(512 * 1024, b"later")
    return first, at_first


@pytest.mark.parametrize("mode", MODES, ids=["copies", "in-place"])
def test_a_vm_goes_back_and_back_again(
    lab: Lab, pitr: Pitr, tmp_path: Path, vm: LabVM, mode: list[str]
) -> None:
    first, at_first = _changed_since_a_point(lab, pitr, vm, tmp_path)
    refused = pitr.json("rollback", vm.name, "--point", first["backup_id"], *mode, code=6)
    assert "--stop" in refused["error"]["advice"]
    before = len(pitr.json("list")["points"])
    planned = pitr.json("rollback", vm.name, "--point", first["backup_id"], *mode, "--dry-run")
    assert planned["undo_point"] is None and len(pitr.json("list")["points"]) == before
    vm.stop()
    now = _contents(lab, vm, tmp_path)
    done = pitr.json("rollback", vm.name, "--point", first["backup_id"], *mode)
    assert _contents(lab, vm, tmp_path) == at_first
    assert done["point"] == first["backup_id"]
    for disk in done["disks"]:
        assert disk["verified"]
        assert disk["bytes_written"] + disk["bytes_zeroed"] == disk["differing_bytes"]
        # 64 KiB of x, 128 KiB of zeroes and a block of "new"; the first disk also has a block of "later".
        assert 196 * 1024 <= disk["differing_bytes"] <= 204 * 1024
    points = {point["backup_id"]: point for point in pitr.json("list")["points"]}
    assert points[done["undo_point"]]["note"].startswith("before rollback to ")
    assert nothing_open(lab)
    ids = {disk.id for disk in lab.vm(vm.id).disks}
    assert {disk["disk_id"] for disk in done["disks"]} == ids
    # The undo point holds what was there.
    undone = pitr.json("rollback", vm.name, "--undo", *mode)
    assert undone["point"] == done["undo_point"] and undone["undo_point"] != done["undo_point"]
    assert _contents(lab, vm, tmp_path) == now
    if mode:
        assert {disk.id for disk in lab.vm(vm.id).disks} == ids
    else:
        assert not {disk.id for disk in lab.vm(vm.id).disks} & ids
    vm.start()
    after = pitr.backup(vm.name)
    assert {disk["changes"] for disk in after["disks"]} == {"compared"}
    if mode:
        assert {disk["changes"] for disk in pitr.backup(vm.name)["disks"]} == {"tracked"}
    pitr("verify")
    assert pitr.json("rollback", vm.name, "--continue", code=4)["error"]["type"] == "NothingToContinue"
    listed = {disk.id for disk in lab.disks}
    discarded = pitr.json("rollback", vm.name, "--discard-old")["discarded"]
    assert {disk.id for disk in lab.disks} == listed - {disk["disk_id"] for disk in discarded}
    assert len(discarded) == (0 if mode else 2)
    assert {disk.id for disk in lab.vm(vm.id).disks} <= {disk.id for disk in lab.disks}
    assert pitr.json("rollback", vm.name, "--discard-old")["discarded"] == []


def test_the_first_backup_after_a_rollback_stores_only_what_is_new(
    lab: Lab, pitr: Pitr, tmp_path: Path, vm: LabVM
) -> None:
    with vm.disks[0].guest() as guest:
        guest.write(2 * MiB, random.Random(1).randbytes(2 * MiB))
    first, at_first = _changed_since_a_point(lab, pitr, vm, tmp_path)
    vm.stop()
    pitr.json("rollback", vm.name, "--point", first["backup_id"])
    # The point after the rollback is made from what is stored.
    made = pitr.json("list")["points"][0]
    assert made["kind"] == "synthetic" and made["note"].startswith("after rollback to ")
    assert {disk["disk_id"] for disk in made["disks"]} == {disk.id for disk in lab.vm(vm.id).disks}
    for disk in pitr.restore_to_file(made, tmp_path / "made"):
        assert Path(disk["target"]).read_bytes() == at_first[disk["name"]]
    after = pitr.backup(vm.name)
    assert {disk["changes"] for disk in after["disks"]} == {"compared"}
    assert after["stored_bytes"] < first["stored_bytes"] / 10
    pitr("verify")


def test_an_unfinished_rollback_is_critical_and_its_points_are_held(pitr: Pitr, vm: LabVM) -> None:
    point = pitr.backup(vm.name)
    with Repository.open(pitr.repository) as repository:
        (unfinished,) = rollbacks.begin(
            repository.store, vm.id, [vm.disks[0].id], point["backup_id"], point["backup_id"]
        )
    (status,) = pitr.json("status", code=1)["vms"]
    assert status["state"] == "critical" and "--continue" in status["reasons"][0]
    pitr("forget", point["backup_id"], code=2)
    with Repository.open(pitr.repository) as repository:
        unfinished.end(repository.store)
    assert pitr.json("status")["vms"][0]["state"] == "ok"
