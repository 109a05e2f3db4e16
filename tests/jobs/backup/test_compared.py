# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks whose changes the engine does not track are compared with the last backup, and only changes are stored."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pitr.lab import Lab
from pitr.repository import Repository
from tests.support.lab import KiB, MiB, assert_restores, make_vm, oracle_of, scribble
from tests.support.pitr import Pitr
from tests.support.points import blob_path, flip_bit


def _changes(point: Any) -> dict[str, str | None]:
    return {disk["name"]: disk["changes"] for disk in point["disks"]}


def test_a_raw_disk_is_full_once_and_then_stores_only_changes(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    chance = random.Random(3)
    vm = make_vm(lab, 6 * MiB + 512, formats=("raw",))
    with vm.disks[0].guest() as guest:
        guest.write(0, chance.randbytes(2 * MiB))
    points: list[Any] = []
    for number in range(4):
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            points.append((pitr.backup(vm.name, *(["--no-fallback"] if number else [])), oracle))
        if number != 1:
            with vm.disks[0].guest() as guest:
                scribble(guest, chance, vm.disks[0].size, writes=4)
    kinds = [(point["kind"], point["disks"][0]["changes"]) for point, _ in points]
    assert kinds == [("full", None), *[("incremental", "compared")] * 3]
    assert [point["parent_id"] for point, _ in points] == [None] + [p["backup_id"] for p, _ in points[:-1]]
    assert points[1][0]["disks"][0]["reason"] == "the disk is raw"
    unchanged = points[2][0]["disks"][0]
    assert (unchanged["data_bytes"], unchanged["zero_bytes"], unchanged["extents"]) == (0, 0, 0)
    for point, oracle in points:
        assert_restores(pitr, lab, point, oracle, tmp_path)
    listed = pitr("list", vm.name).stdout
    assert listed.count("compared") == 3 and "the disk is raw" in " ".join(listed.split())
    assert "compared" in pitr("show", points[1][0]["backup_id"]).stdout
    assert pitr.json("verify")["ok"]
    full = pitr.backup(vm.name, "--full")
    assert (full["kind"], full["parent_id"], full["disks"][0]["changes"]) == ("full", None, None)


def test_a_raw_disk_beside_a_tracked_one(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB, MiB, formats=("cow", "raw"))
    pitr.backup(vm.name)
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(64 * KiB, b"A" * 100)
    plan = pitr.json("backup", vm.name, "--dry-run")["plans"][0]
    assert plan["kind"] == "incremental"
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name, "--no-fallback")
    assert _changes(point) == {"d0": "tracked", "d1": "compared"}
    assert [disk["data_bytes"] for disk in point["disks"]] == [64 * KiB, 4 * KiB]
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_disk_that_grew_and_one_that_shrank_after_the_checkpoint_was_lost(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 3 * MiB, 2 * MiB)
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(0, random.Random(5).randbytes(2 * MiB))
    pitr.backup(vm.name)
    vm.stop()
    vm.disks[0].replace(2 * MiB - 64 * KiB, "cow")
    vm.disks[1].grow(4 * MiB)
    lab.engine.lose_checkpoints(vm.id)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert _changes(point) == {"d0": "compared", "d1": "compared"}
    assert point["disks"][1]["data_bytes"] == 0
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_comparison_that_meets_damage_stores_it_and_the_new_point_does_not_depend_on_it(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 2 * MiB, formats=("raw",))
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(7).randbytes(2 * MiB))
    first = pitr.backup(vm.name)
    stored = Repository.open(pitr.repository)
    backup = stored.catalog.get(first["backup_id"])
    assert backup is not None
    flip_bit(blob_path(stored, backup.streams[0]), backup.streams[0].stored_bytes // 2)
    stored.close()
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * 2 * MiB)
    with oracle_of(lab, tmp_path) as oracle:
        result = pitr("backup", vm.name, "-o", "json")
    (point,) = result.json["backups"]
    assert (point["kind"], point["damaged"]) == ("full", False)
    assert "its chain is damaged: a frame" in point["reason"] and "met damage" in result.stderr
    damaged = {p["backup_id"]: p["damaged"] for p in pitr.json("list")["points"]}
    assert damaged == {first["backup_id"]: True, point["backup_id"]: False}
    assert_restores(pitr, lab, point, oracle, tmp_path)
    assert _changes(pitr.backup(vm.name)) == {"d0": "compared"}


def test_a_damaged_newest_backup_is_passed_over_for_an_older_one_with_a_whole_chain(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = make_vm(lab, 2 * MiB)
    first = pitr.backup(vm.name)
    with vm.disks[0].guest() as guest:
        guest.write(0, b"A" * MiB)
    second = pitr.backup(vm.name)
    stored = Repository.open(pitr.repository)
    backup = stored.catalog.get(second["backup_id"])
    assert backup is not None
    blob_path(stored, backup.streams[0]).unlink()
    stored.close()
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert (point["parent_id"], _changes(point)) == (first["backup_id"], {"d0": "compared"})
    assert second["backup_id"] in point["reason"]
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_full_is_taken_when_the_last_one_is_old(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, MiB)
    lab.clock.set(datetime.now().astimezone() - timedelta(days=29))
    pitr.backup(vm.name, "--full-every", "30d")
    lab.clock.set(datetime.now().astimezone())
    assert pitr.backup(vm.name, "--full-every", "30d")["kind"] == "incremental"
    full = pitr.backup(vm.name, "--full-every", "28d")
    assert full["kind"] == "full" and "28 d" in full["reason"]
