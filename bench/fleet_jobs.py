# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare `pitr backup --jobs 8` of eight small VMs in processes with the same in threads: `bench/run fleet_jobs`.

The lab's engine and daemon work on the same processors. A run that cannot fork takes threads.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial

import measure
from measure import MIB, Result, Size

from pitr.lab import Lab

_VMS = 8
_DISK = 16 * MIB
_START = "from pitr.cli.main import main; main()"
_WAYS = {
    "processes": _START,
    "threads": f"from pitr.system import forked; forked.can_fork = lambda: False; {_START}",
}


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder, Lab() as lab:
        for number in range(_VMS):
            vm = lab.add_vm(f"web{number}")
            vm.add_disk("system", _DISK, bootable=True)
            vm.start()
            with vm.disks[0].guest() as guest:
                guest.write(0, os.urandom(_DISK // 2))
        config = folder / "config.toml"
        config.touch()
        cpu: dict[str, list[float]] = {way: [] for way in _WAYS}

        def pitr(way: str, *arguments: str) -> measure.Ran:
            environment = {**lab.environment(), "PITR_REPO": str(folder / "r"), "PITR_CONFIG": str(config)}
            return measure.run([sys.executable, "-c", _WAYS[way], *arguments], environment)

        def measured(way: str) -> float:
            pitr(way, "init")
            ran = pitr(way, "backup", "--all", "--jobs", str(_VMS))
            shutil.rmtree(folder / "r")
            cpu[way].append(ran.cpu_s)
            return ran.wall_s

        walls = measure.in_turn(3 * size.runs, {way: partial(measured, way) for way in _WAYS})
    title = f"backup of {_VMS} VMs of {_DISK // MIB} MiB, 8 at a time"
    return [
        measure.compared(title, walls, "processes", "threads", goal=1.0),
        measure.compared(f"{title}: CPU", cpu, "processes", "threads", goal=1.0),
    ]
