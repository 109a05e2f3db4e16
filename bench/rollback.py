# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a rollback of a disk, of which a hundredth has changed, with a restore of the same point to a new disk."""

from __future__ import annotations

import json
import random
import sys

import disks
import measure
from measure import Result, Size

from pitr.lab import Lab, LabDisk, LabVM

#: A hundredth of the disk changes: 40 MiB of 4 GiB.
SHARE = 100
#: One changed piece of the disk, on a grid of its own size.
PIECE = 64 * 1024
GOAL_TIME = 0.15


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder, Lab() as lab:
        image, config = folder / "disk.raw", folder / "config.toml"
        config.touch()
        disks.real_disk(image, size.disk_bytes)
        environment = {
            **lab.environment(),
            "PITR_REPO": str(folder / "repository"),
            "PITR_CONFIG": str(config),
        }
        vm = lab.add_vm("web1")
        vm.attach(lab.add_disk("system", size.disk_bytes, content=image), bootable=True)
        image.unlink()
        runs = _Runs(lab, vm, environment)
        samples = measure.in_turn(
            size.runs,
            {"in place": runs.in_place, "on copies": runs.on_copies, "restore to new disks": runs.restore},
        )
    name = f"rollback of {size.disk_bytes / measure.GIB:g} GiB, {runs.share / 1e6:.0f} MB changed"
    sent = Result(f"{name}: bytes sent", runs.sent / 1e6, runs.changed / 1e6, "MB", 1.0, "bytes that differ")
    return [
        sent,
        measure.compared(f"{name}: in place", samples, "in place", "restore to new disks", goal=GOAL_TIME),
        measure.compared(f"{name}: on copies", samples, "on copies", "restore to new disks", goal=None),
    ]


class _Runs:
    """Runs pitr against the local oVirt, and counts what the rollbacks have sent and what the guest has changed."""

    def __init__(self, lab: Lab, vm: LabVM, environment: dict[str, str]) -> None:
        self._lab = lab
        self._vm = vm
        self._environment = environment
        self._chance = random.Random(18)
        self._pieces = self._disk().size // SHARE // PIECE
        self.sent = self.changed = 0
        self._pitr("init")
        self._point = self._backup()

    @property
    def share(self) -> int:
        """The number of bytes that the guest changes before each rollback."""
        return self._pieces * PIECE

    def in_place(self) -> float:
        return self._rollback("--in-place")

    def on_copies(self) -> float:
        wall_s = self._rollback()
        self._pitr("rollback", "web1", "--discard-old")
        return wall_s

    def restore(self) -> float:
        ran = self._pitr("restore", "web1", "--point", self._point)
        for disk in json.loads(ran.output)["disks"]:
            self._lab.disk(disk["target"]).delete()
        return ran.wall_s

    def _rollback(self, *options: str) -> float:
        # The backup after a rollback compares the whole disk, once; the nightly one has done so.
        self._backup()
        self._change()
        ran = self._pitr("rollback", "web1", "--point", self._point, *options)
        for disk in json.loads(ran.output)["disks"]:
            self.sent += disk["bytes_written"] + disk["bytes_zeroed"]
        return ran.wall_s

    def _change(self) -> None:
        self._vm.start()
        with self._disk().guest() as guest:
            for number in self._chance.sample(range(self._disk().size // PIECE), self._pieces):
                guest.write(number * PIECE, self._chance.randbytes(PIECE))
        self._vm.stop()
        self.changed += self.share

    def _backup(self) -> str:
        made = json.loads(self._pitr("backup", "web1").output)
        return str(made["backups"][0]["backup_id"])

    def _disk(self) -> LabDisk:
        return self._vm.disks[0]

    def _pitr(self, *arguments: str) -> measure.Ran:
        command = [sys.executable, "-m", "pitr", *arguments, "--output", "json"]
        return measure.run(command, self._environment)


if __name__ == "__main__":
    measure.main(benchmark)
