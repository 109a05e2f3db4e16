# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of all sizes: odd ones, tiny, empty, full and huge ones."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from pitr.lab import Lab
from tests.support.lab import KiB, MiB, assert_adds_up, assert_restores, make_vm, oracle_of, scribble
from tests.support.pitr import Pitr

TiB = 1 << 40


@pytest.mark.parametrize("size", [512, 4 * KiB, 65 * KiB + 512, MiB - 512, MiB, MiB + 512, 10487296])
def test_a_disk_of_any_size(lab: Lab, pitr: Pitr, tmp_path: Path, size: int) -> None:
    vm = make_vm(lab, size)
    chance = random.Random(size)
    for number in range(2):
        with vm.disks[0].guest() as guest:
            scribble(guest, chance, size, writes=6)
            guest.write(size - 512, chance.randbytes(512))
        with oracle_of(lab, tmp_path / str(number)) as oracle:
            point = pitr.backup(vm.name)
        assert point["disks"][0]["size"] == size
        assert_restores(pitr, lab, point, oracle, tmp_path, ways="raw qcow2 disks" if number else "raw")


@pytest.mark.parametrize("disk_format", ["cow", "raw"])
def test_an_empty_disk(lab: Lab, pitr: Pitr, tmp_path: Path, disk_format: str) -> None:
    vm = make_vm(lab, 64 * MiB, formats=(disk_format,))
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    disk = point["disks"][0]
    assert (disk["data_bytes"], disk["zero_bytes"]) == (0, 64 * MiB)
    assert disk["stored_bytes"] < 4096
    assert_restores(pitr, lab, point, oracle, tmp_path, ways="raw qcow2 disks")


def test_a_full_disk(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 12 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(1).randbytes(12 * MiB))
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert (point["disks"][0]["data_bytes"], point["disks"][0]["zero_bytes"]) == (12 * MiB, 0)
    assert_restores(pitr, lab, point, oracle, tmp_path, ways="raw qcow2 disks")


def test_nothing_changed_is_a_point_too(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 4 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(MiB, b"D" * MiB)
    pitr.backup(vm.name)
    with oracle_of(lab, tmp_path) as oracle:
        points = [pitr.backup(vm.name) for _ in range(2)]
    for point in points:
        disk = point["disks"][0]
        assert (disk["kind"], disk["data_bytes"], disk["zero_bytes"], disk["extents"]) == (
            "incremental",
            0,
            0,
            0,
        )
        assert_restores(pitr, lab, point, oracle, tmp_path, ways="raw disks")


def test_explicit_zeroes_in_data_are_stored_as_zero(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, 16 * MiB)
    with vm.disks[0].guest() as guest:
        guest.write(0, bytes(8 * MiB))
        guest.write(8 * MiB, b"E" * MiB)
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert point["disks"][0]["data_bytes"] == MiB
    assert_restores(pitr, lab, point, oracle, tmp_path)


def test_a_disk_of_1_tib_with_10_mib_of_data_takes_seconds(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, TiB)
    chance = random.Random(3)
    with vm.disks[0].guest() as guest:
        for number in range(10):
            guest.write(number * 100 * 1024 * MiB + 4096 * number, chance.randbytes(MiB))
    started_at = time.monotonic()
    full = pitr.backup(vm.name)
    with vm.disks[0].guest() as guest:
        guest.zero(0, MiB, unmap=True)
        guest.write(TiB - 4096, b"F" * 4096)
    with oracle_of(lab, tmp_path) as oracle:
        incremental = pitr.backup(vm.name)
    assert incremental["disks"][0]["size"] == TiB
    (raw,) = pitr.restore_to_file(incremental, tmp_path / "huge.raw")
    (qcow2,) = pitr.restore_to_file(full, tmp_path / "huge.qcow2", "--format", "qcow2")
    (disk,) = pitr.json("restore", "--point", incremental["backup_id"])["disks"]
    for restored in (raw, qcow2, disk):
        assert_adds_up(restored)
        assert restored["bytes_zeroed"] == 0
        assert restored["bytes_written"] < 12 * MiB
    # Generous: it only ends what reads or writes the whole terabyte, which takes minutes at least.
    assert time.monotonic() - started_at < 60
    assert (tmp_path / "huge.raw").stat().st_blocks * 512 < 20 * MiB
    assert_restores(pitr, lab, incremental, oracle, tmp_path)
