# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the start of `pitr backup`: what pitr adds to a backup of a VM in which nothing has changed.

The engine of the lab answers at once, so nothing but pitr and the answers to its requests takes time. `--profile FILE`
writes a profile of one backup instead. `--modules` lists the slowest imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measure
from measure import MIB, Result, Size

GOAL_S = 0.3
_PITR = [sys.executable, "-m", "pitr"]


def benchmark(size: Size) -> list[Result]:
    with _place() as vm:
        backup = [*_PITR, "backup", vm, "--quiet"]
        programs = {
            "pitr backup": lambda: measure.run(backup),
            "pitr --version": lambda: measure.run([*_PITR, "--version"]),
        }
        cpu_s: dict[str, list[float]] = {name: [] for name in programs}

        def timed(name: str) -> float:
            ran = programs[name]()
            cpu_s[name].append(ran.cpu_s)
            return ran.wall_s

        runs = 3 if size.quick else 10
        wall_s = measure.in_turn(runs, {name: lambda name=name: timed(name) for name in programs})  # type: ignore[misc]
    name = "backup of a VM with nothing changed"
    return [
        Result(
            name,
            measure.median(wall_s["pitr backup"]),
            GOAL_S,
            "s",
            1.0,
            "the goal beside the engine's phases",
        ),
        Result(f"{name}: CPU", measure.median(cpu_s["pitr backup"]), GOAL_S, "s", 1.0, "the goal"),
        Result(
            f"{name}: CPU beside --version",
            measure.median(cpu_s["pitr backup"]),
            measure.median(cpu_s["pitr --version"]),
            "s",
            None,
            "pitr --version",
        ),
    ]


@contextmanager
def _place() -> Iterator[str]:
    """Start a lab with a VM that has a full backup. Yield the VM's name; the environment leads `pitr` to both."""
    from pitr.lab import Lab

    with measure.folder() as folder, Lab(folder, phase_lag_s=0.0) as lab:
        vm = lab.add_vm("web1")
        vm.add_disk("system", 64 * MIB, format="cow")
        vm.start()
        os.environ.update(lab.environment(), PITR_REPO=str(folder / "r"))
        measure.run([*_PITR, "init", str(folder / "r")])
        for _ in range(2):
            measure.run([*_PITR, "backup", "web1"])
        yield "web1"


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three runs")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a profile of one backup")
    parser.add_argument("--modules", action="store_true", help="list the slowest imports of one backup")
    given = parser.parse_args()
    if given.profile is not None:
        with _place() as vm:
            command = [sys.executable, "-m", "cProfile", "-o", str(given.profile), *_PITR[1:]]
            measure.run([*command, "backup", vm, "--quiet"])
    elif given.modules:
        with _place() as vm:
            command = [sys.executable, "-X", "importtime", *_PITR[1:], "backup", vm, "--quiet"]
            said = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
            lines = [line for line in said.splitlines()[1:] if line.startswith("import time:")]
            print("\n".join(sorted(lines, key=lambda line: int(line.split("|")[1]))[-80:]))
    else:
        print(measure.table(benchmark(measure.QUICK if given.quick else measure.FULL)))


if __name__ == "__main__":
    _main()
