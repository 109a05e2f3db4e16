# SPDX-License-Identifier: GPL-2.0-or-later
"""The first backup of a disk uses the frames that siblings have stored at the same place."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pitr.lab import Lab, LabVM
from tests.support.lab import KiB, MiB, assert_restores, oracle_of
from tests.support.pitr import Pitr

TEMPLATE = "5f9e1d0c-5c0b-4a3e-9f3c-2b9a4f6a1e11"
SIZE = 6 * MiB


def clone(
    lab: Lab, number: int, *, template: str | None = None, thin: bool = True, size: int = SIZE
) -> LabVM:
    """A running VM with the template's disk and 64 KiB of its own."""
    vm = lab.add_vm(f"clone-{number}-{random.getrandbits(32):08x}", template_id=template, thin=thin)
    vm.add_disk("system", size, bootable=True)
    vm.start()
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(11).randbytes(4 * MiB))
        guest.write(2 * MiB + 64 * KiB, random.Random(number).randbytes(64 * KiB))
    return vm


def stored(point: Any) -> int:
    return int(point["stored_bytes"])


def test_like_stores_only_what_the_other_vm_does_not_have(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    first, second = clone(lab, 1), clone(lab, 2)
    base = pitr.backup(first.name)
    with oracle_of(lab, tmp_path / "2") as oracle:
        point = pitr.backup(second.name, "--like", first.name)
    assert (point["kind"], point["parent_id"], point["disks"][0]["changes"]) == ("full", None, None)
    assert stored(point) < MiB + 64 * KiB < stored(base)
    assert_restores(pitr, lab, point, oracle, tmp_path)
    assert pitr.json("verify")["ok"]
    # The chain goes on as any other one.
    with second.disks[0].guest() as guest:
        guest.write(0, b"A" * 4096)
    with oracle_of(lab, tmp_path / "3") as oracle:
        after = pitr.backup(second.name, "--no-fallback")
    assert (after["kind"], after["parent_id"]) == ("incremental", point["backup_id"])
    assert_restores(pitr, lab, after, oracle, tmp_path)
