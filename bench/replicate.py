# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a replication to a new folder with a plain copy of the same objects: `cp -r`, and a sync."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import measure
from measure import MIB, Result, Size

#: What a copy takes over.
OBJECTS = ("repository.json", "backups", "blobs", "indexes", "configurations", "commits")
_DISKS = 4


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder:
        source = folder / "repository"
        _make(source, min(size.disk_bytes, measure.GIB) // _DISKS)
        numbers = itertools.count()
        cpu: dict[str, list[float]] = {"replicate": [], "cp -r": []}

        def replicate() -> float:
            target = folder / f"copy{next(numbers)}"
            return _timed(
                (*_PITR, "replicate", str(source), str(target), "--quiet"), target, cpu["replicate"]
            )

        def copy() -> float:
            target = folder / f"copy{next(numbers)}"
            target.mkdir()
            parts = [str(source / name) for name in OBJECTS if (source / name).exists()]
            script = f'cp -r "$@" {target} && sync -f {target}'
            return _timed(("sh", "-c", script, "cp", *parts), target, cpu["cp -r"])

        subprocess.run(["sync", "-f", str(folder)], check=True)
        samples = measure.in_turn(size.runs, {"replicate": replicate, "cp -r": copy})
        stored = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    name = f"replication of {_DISKS} points, {stored >> 20} MiB"
    return [
        measure.compared(name, samples, "replicate", "cp -r", goal=1.1),
        measure.compared(f"{name}: processor", cpu, "replicate", "cp -r", goal=None),
    ]


_PITR = (sys.executable, "-m", "pitr")


def _make(source: Path, disk_bytes: int) -> None:
    """Make a repository of points that do not compress."""
    subprocess.run([*_PITR, "init", str(source), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    image = source.with_name("image")
    for number in range(_DISKS):
        with image.open("wb") as file:
            for _ in range(disk_bytes // MIB):
                file.write(os.urandom(MIB))
        time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
        command = (*_PITR, "import", "raw", str(image), "--vm", f"vm{number}", "--disk", "system")
        options = ("--time", time.isoformat(), "--repo", str(source), "--quiet")
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    image.unlink()


def _timed(command: tuple[str, ...], target: Path, cpu: list[float]) -> float:
    ran = measure.run(command)
    cpu.append(ran.cpu_s)
    shutil.rmtree(target)
    subprocess.run(["sync", "-f", str(target.parent)], check=True)
    return ran.wall_s


if __name__ == "__main__":
    measure.main(benchmark)
