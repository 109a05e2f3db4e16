# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a replication to a new folder with a plain copy of the same objects: `cp -r`, and a sync."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import chains
import disks
import measure
from measure import Result, Size

from pitr.repository import Repository

OBJECTS = ("repository.json", "backups", "blobs", "indexes", "configurations", "commits")


def benchmark(size: Size) -> list[Result]:
    incrementals = 20 if size.quick else 100
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, min(size.disk_bytes, measure.GIB))
        source = folder / "repository"
        with Repository.create(source) as repository:
            chains.make_chain(repository, image, incrementals)
        numbers = itertools.count()

        def replicate() -> float:
            target = folder / f"copy{next(numbers)}"
            command = (sys.executable, "-m", "pitr", "replicate", str(source), str(target), "--quiet")
            return _timed(command, target)

        def copy() -> float:
            target = folder / f"copy{next(numbers)}"
            target.mkdir()
            parts = [str(source / name) for name in OBJECTS if (source / name).exists()]
            script = f'cp -r "$@" {target} && sync -f {target}'
            return _timed(("sh", "-c", script, "cp", *parts), target)

        subprocess.run(["sync", "-f", str(folder)], check=True)
        samples = measure.in_turn(size.runs, {"replicate": replicate, "cp -r": copy})
        stored = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    name = f"replication of {incrementals + 1} points, {stored >> 20} MiB"
    return [measure.compared(name, samples, "replicate", "cp -r", goal=1.1)]


def _timed(command: tuple[str, ...], target: Path) -> float:
    taken = measure.run(command).wall_s
    shutil.rmtree(target)
    subprocess.run(["sync", "-f", str(target.parent)], check=True)
    return taken


if __name__ == "__main__":
    measure.main(benchmark)
