# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a rollback in place of a little changed disk with a restore of the same point to a new disk."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable

import disks
import measure
from measure import Result, Size

from pitr.lab import Lab
from pitr.lab.lab import LabDisk, LabVM

GRAIN = 64 << 10
#: A hundredth of the disk: 40 MiB of 4 GiB.
SHARE = 100


def benchmark(size: Size) -> list[Result]:
    changed = size.disk_bytes // SHARE // GRAIN
    with measure.folder() as folder, Lab(phase_lag_s=0.01) as lab:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        vm = lab.add_vm("web1")
        disk = vm.add_disk("system", size.disk_bytes, content=image)
        image.unlink()
        environment = {**lab.environment(), "PITR_REPO": str(folder / "repository")}
        chance = random.Random(5)

        def pitr(*arguments: str) -> measure.Ran:
            command = [sys.executable, "-m", "pitr", *arguments, "--output", "json"]
            return measure.run(command, environment)

        pitr("init")
        point = json.loads(pitr("backup", vm.name).output)["backups"][0]["backup_id"]
        reports: list[dict[str, int]] = []

        def roll_back() -> float:
            _change(vm, disk, changed, chance)
            ran = pitr("rollback", vm.name, "--point", point, "--in-place")
            reports.extend(json.loads(ran.output)["disks"])
            return ran.wall_s

        def restore() -> float:
            before = {each.id for each in lab.disks}
            ran = pitr("restore", vm.name, "--point", point, "--to-new-disks")
            for each in lab.disks:
                if each.id not in before:
                    each.delete()
            return ran.wall_s

        ways: dict[str, Callable[[], float]] = {"rollback": roll_back, "restore": restore}
        samples = measure.in_turn(size.runs, ways)
    sent = sum(report["bytes_written"] + report["bytes_zeroed"] for report in reports)
    differing = sum(report["differing_bytes"] for report in reports)
    name = (
        f"rollback in place, {changed * GRAIN / 1e6:.0f} MB of {size.disk_bytes / measure.GIB:g} GiB changed"
    )
    return [
        measure.compared(f"{name}, with its undo backup", samples, "rollback", "restore", goal=0.15),
        Result(f"{name}: bytes sent", sent / 1e6, differing / 1e6, "MB", 1.0, "differing bytes"),
    ]


def _change(vm: LabVM, disk: LabDisk, grains: int, chance: random.Random) -> None:
    """Write at `grains` random places of the disk, as the guest does, and leave the VM down."""
    vm.start()
    with disk.guest() as guest:
        for slot in sorted(chance.sample(range(disk.size // GRAIN), grains)):
            guest.write(slot * GRAIN, chance.randbytes(GRAIN))
    vm.stop()


if __name__ == "__main__":
    measure.main(benchmark)
