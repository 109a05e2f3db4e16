# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of a full and incrementals: each point restores to what the disks held at its moment."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import (
    KiB,
    MiB,
    assert_restores,
    assert_same,
    guest_that_goes_on,
    make_vm,
    oracle_of,
    scribble,
)
from tests.support.pitr import Pitr

SIZE = 10487296  # no multiple of 64 KiB, nor of 4 KiB


@pytest.mark.parametrize(
    ("compat", "mode"), [("4.6", "live"), ("4.6", "cold"), ("4.7", "hybrid"), ("4.8", "hybrid")]
)
def test_every_point_of_a_chain_is_the_disk_at_its_moment(
    lab: Lab, pitr: Pitr, tmp_path: Path, compat: str, mode: str
) -> None:
    chance = random.Random(f"{compat} {mode}")
    vm = make_vm(lab, SIZE, 3 * MiB + 512, compat=compat)
    points: list[Any] = []
    for number in range(5):
        for disk in vm.disks:
            with disk.guest() as guest:
                scribble(guest, chance, disk.size)
        if mode == "cold":
            vm.stop()
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            points.append((pitr.backup(vm.name), oracle))
        if mode == "cold":
            vm.start()
    assert [point["kind"] for point, _ in points] == ["full"] + ["incremental"] * 4
    assert {point["mode"] for point, _ in points} == {mode}
    assert [point["parent_id"] for point, _ in points] == [None] + [p["backup_id"] for p, _ in points[:-1]]
    for number, (point, oracle) in enumerate(points):
        ways = "raw qcow2 disks" if number in (0, 4) else "raw"
        assert_restores(pitr, lab, point, oracle, tmp_path, ways=ways)
    assert pitr.json("verify")["ok"]


def test_what_guests_write_during_a_backup_is_not_in_it_but_in_the_next(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 8 * MiB, 2 * MiB)
    first, second = vm.disks
    chance = random.Random(6)
    points: list[Any] = []

    def overwrite_everything() -> None:
        # The point in time is fixed, its data not read yet.
        with second.guest() as guest:
            guest.write(0, chance.randbytes(MiB))
            guest.zero(MiB, 512 * KiB, unmap=False)
            guest.discard(1536 * KiB, 512 * KiB)

    with second.guest() as guest:
        guest.write(0, chance.randbytes(2 * MiB))
    with guest_that_goes_on(first, 1):
        for number in range(4):
            with oracle_of(lab, tmp_path / str(number), then=overwrite_everything) as oracle:
                points.append((pitr.backup(vm.name), oracle))
    assert [point["kind"] for point, _ in points] == ["full", *["incremental"] * 3]
    for point, oracle in points:
        assert_restores(pitr, lab, point, oracle, tmp_path)


def test_zeroes_written_after_the_full_hide_older_data(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 8 * MiB)
    disk = vm.disks[0]
    with disk.guest() as guest:
        guest.write(0, b"A" * 8 * MiB)
    pitr.backup(vm.name)
    with disk.guest() as guest:
        guest.write(0, bytes(128 * KiB))
        guest.zero(MiB, MiB, unmap=False)
        guest.zero(3 * MiB, MiB, unmap=True)
        guest.discard(5 * MiB, MiB)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name, "--incremental", "--no-fallback")
    found = point["disks"][0]
    assert (found["data_bytes"], found["zero_bytes"]) == (0, 3 * MiB + 128 * KiB)
    assert_restores(pitr, lab, point, oracle, tmp_path, ways="raw qcow2 disks")
    shown = pitr.json("extents", point["backup_id"])
    assert shown["disk_id"] == disk.id and shown["size"] == 8 * MiB
    at = 0
    for extent in shown["extents"]:
        assert extent["start"] == at
        at += extent["length"]
    assert at == 8 * MiB
    zero = [(e["start"], e["length"]) for e in shown["extents"] if e["zero"]]
    assert zero == [(0, 128 * KiB), (MiB, MiB), (3 * MiB, MiB), (5 * MiB, MiB)]


def test_a_vm_that_is_now_up_and_now_down_has_one_chain(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 4 * MiB)
    chance = random.Random(9)
    points: list[Any] = []
    for number, up in enumerate((True, False, True, False)):
        with vm.disks[0].guest() as guest:
            scribble(guest, chance, 4 * MiB)
        if not up:
            vm.stop()
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            points.append((pitr.backup(vm.name), oracle))
        if not up:
            vm.start()
    assert [point["mode"] for point, _ in points] == ["live", "cold", "live", "cold"]
    assert [point["kind"] for point, _ in points] == ["full", *["incremental"] * 3]
    for point, oracle in points:
        assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_raw_disk_is_compared_and_a_qcow2_disk_tracked_in_one_point(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 4 * MiB, SIZE, formats=("cow", "raw"))
    chance = random.Random(2)
    points: list[Any] = []
    for number in range(3):
        for disk in vm.disks:
            with disk.guest() as guest:
                scribble(guest, chance, disk.size)
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            points.append((pitr.backup(vm.name), oracle))
    assert [[disk["changes"] for disk in point["disks"]] for point, _ in points] == [
        [None, None],
        ["tracked", "compared"],
        ["tracked", "compared"],
    ]
    assert [point["kind"] for point, _ in points] == ["full", "incremental", "incremental"]
    for point, oracle in points:
        assert_restores(pitr, lab, point, oracle, tmp_path, ways="raw disks")


def test_without_fallback_only_the_first_backup_of_raw_disks_is_refused(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 2 * MiB, formats=("raw",))
    assert "no backup of this VM" in pitr("backup", vm.name, "--no-fallback", code=6).complaint
    for kind, options in (("full", ["--incremental"]), ("incremental", ["--no-fallback"])):
        with oracle_of(lab, tmp_path) as oracle:
            point = pitr.backup(vm.name, *options)
        assert (point["kind"], point["checkpoint_id"]) == (kind, None)
        assert_restores(pitr, lab, point, oracle, tmp_path)
    assert "checkpoint" in point["reason"]


def test_a_disk_added_later_is_full_in_an_incremental_point(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB)
    pitr.backup(vm.name)
    added = vm.add_disk("added", 3 * MiB)
    with added.guest() as guest:
        guest.write(12345, b"B" * 70000)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert {disk["name"]: disk["kind"] for disk in point["disks"]} == {"d0": "incremental", "added": "full"}
    assert point["kind"] == "incremental"
    assert_restores(pitr, lab, point, oracle, tmp_path)
    with added.guest() as guest:
        guest.zero(0, MiB, unmap=True)
    with oracle_of(lab, tmp_path / "2") as oracle:
        point = pitr.backup(vm.name)
    assert {disk["kind"] for disk in point["disks"]} == {"incremental"}
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_backups_of_some_disks_do_not_break_the_chain_of_the_others(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 2 * MiB, 2 * MiB)
    chance = random.Random(4)
    points: list[Any] = []
    for number, options in enumerate(([], ["--disk", "d0"], ["--disk", "d1"], [], [])):
        for disk in vm.disks:
            with disk.guest() as guest:
                scribble(guest, chance, disk.size, writes=4)
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            points.append((pitr.backup(vm.name, *options), oracle))
    for point, oracle in points:
        assert_restores(pitr, lab, point, oracle, tmp_path)
    assert {disk["kind"] for disk in points[-1][0]["disks"]} == {"incremental"}
    left_out = points[1][0]["left_out"]
    assert [(item["name"], item["reason"]) for item in left_out] == [("d1", "not selected")]


def test_one_disk_of_several_is_restored(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 2 * MiB, 3 * MiB)
    with vm.disks[1].guest() as guest:
        guest.write(0, b"C" * MiB)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    (restored,) = pitr.restore_to_file(point, tmp_path / "one.raw", "--disk", "d1")
    assert restored["disk_id"] == vm.disks[1].id and restored["target"] == str(tmp_path / "one.raw")
    assert_same(tmp_path / "one.raw", oracle[vm.disks[1].id])


def test_restored_disks_are_attached_to_a_vm(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB, 2 * MiB)
    pitr.backup(vm.name)
    rescue: LabVM = lab.add_vm("rescue")
    document = pitr.json("restore", vm.name, "--at", "now", "--to-new-disks", "--attach-to", "rescue")
    assert [disk.id for disk in rescue.disks] == [disk["target"] for disk in document["disks"]]
