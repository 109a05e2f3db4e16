# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare consolidating a long chain with restoring it, and what forever-incremental stores with live data."""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import chains
import disks
import measure
import numpy as np
import restore
from chains import GRAIN
from measure import MIB, Result, Size

from pitr.endpoints.images.raw_file import RawFileSource
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.model import Backup
from pitr.repository import Repository

RETENTION = Retention(daily=30, monthly=12)
#: A night changes one grain of this many. Most changes are in a fifth of the disk.
CHANGED = 100
HOT_DISK = 5
HOT_CHANGES = 0.8


def benchmark(size: Size) -> list[Result]:
    return [*_long_chain(size), *_forever(size)]


def _long_chain(size: Size) -> list[Result]:
    incrementals = 20 if size.quick else 99
    with measure.folder() as folder:
        image, kept = folder / "disk.raw", folder / "kept"
        disks.real_disk(image, size.disk_bytes)
        with Repository.create(kept) as repository:
            chain = chains.make_chain(repository, image, incrementals)
        image.unlink()
        point = chain.newest[0].backup_id
        cpu_s: dict[str, list[float]] = {"consolidate": [], "restore to a file": []}

        def consolidated() -> float:
            copy = folder / "copy"
            _copy(kept, copy)
            report = json.loads(measure.run_python(Path(__file__), "consolidate", copy, point).output)
            if report["copied_bytes"] or not report["created"]:
                raise RuntimeError(f"this is no consolidation without compaction: {report}")
            shutil.rmtree(copy)
            cpu_s["consolidate"].append(report["cpu_s"])
            return float(report["wall_s"])

        def restored() -> float:
            target = folder / "restored.raw"
            ran = measure.run_python(Path(restore.__file__), "to-file", kept, point, target)
            target.unlink()
            cpu_s["restore to a file"].append(ran.cpu_s - start.cpu_s)
            return ran.wall_s - start.wall_s

        start = min(
            (measure.run_python(Path(__file__), "nothing") for _ in range(3)), key=lambda ran: ran.wall_s
        )
        samples = measure.in_turn(size.runs, {"consolidate": consolidated, "restore to a file": restored})
    name = f"consolidate a chain of {incrementals + 1}, without the start of pitr"
    return [
        measure.compared(name, samples, "consolidate", "restore to a file", goal=0.1),
        measure.compared(f"{name}: CPU", cpu_s, "consolidate", "restore to a file", goal=None),
    ]


def _copy(kept: Path, copy: Path) -> None:
    """Copy a repository; its immutable objects become hard links."""
    shutil.copytree(kept, copy, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> None:
    if {"blobs", "indexes"} & set(Path(source).parts):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def consolidate_newest(folder: str, point: str) -> dict[str, object]:
    """Consolidate a point in this process. Return what it took, without the start of Python."""
    from pitr.jobs.consolidate.one_point import consolidate

    results = []

    def work() -> None:
        with Repository.open(Path(folder)) as repository:
            results.append(consolidate(repository, repository.record_of(point)))

    before_s = time.process_time()
    wall_s = measure.seconds(work)
    cpu_s = time.process_time() - before_s
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "copied_bytes": results[0].copied_bytes,
        "created": len(results[0].created),
    }


@dataclass
class Nights:
    """What a disk held in each night: for each grain the night that wrote it, and its stored bytes."""

    versions: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = field(default_factory=list)
    stored: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = field(default_factory=list)
    written_bytes: float = 0

    def add(self, number: int, frames: Iterator[tuple[int, int, float]], grains: int) -> None:
        """Add a night with its new frames: first grain, number of grains, stored bytes of each grain."""
        version = self.versions[-1].copy() if self.versions else np.zeros(grains, np.int64)
        stored = self.stored[-1].copy() if self.stored else np.zeros(grains)
        for first, count, each in frames:
            version[first : first + count] = number
            stored[first : first + count] = each
            self.written_bytes += each * count
        self.versions.append(version)
        self.stored.append(stored)

    def live_bytes(self, nights: list[int]) -> float:
        """Return the stored bytes of all data that the points of these nights hold, each counted once."""
        grains = len(self.versions[0])
        keys = np.concatenate([self.versions[night] * grains + np.arange(grains) for night in nights])
        _, first = np.unique(keys, return_index=True)
        return float(np.concatenate([self.stored[night] for night in nights])[first].sum())


def _forever(size: Size) -> list[Result]:
    days = 80 if size.quick else 400
    disk_bytes = (32 if size.quick else 256) * MIB
    ratios: list[tuple[float, float, float]] = []
    nights = Nights()
    copied = longest_s = 0.0
    with measure.folder() as folder:
        image, path = folder / "disk.raw", folder / "repository"
        disks.real_disk(image, disk_bytes)
        with Repository.create(path), _mapped(image) as content:
            chooser = random.Random(400)
            disk_id = str(uuid.uuid4())
            for day in range(days):
                with Repository.open(path) as repository:
                    backup = _night(repository, image, content, chooser, day, disk_id)
                    nights.add(day, _frames(repository, backup), len(content) // GRAIN)
                    before = time.perf_counter()
                    done = prune(repository, RETENTION, [chains.VM], notify=_raise)
                    longest_s = max(longest_s, time.perf_counter() - before)
                copied += done.copied_bytes
                kept = [_day(each) for each in done.kept]
                live = nights.live_bytes(kept)
                blobs = _size(path / "blobs")
                ratios.append(((blobs + _size(path, but="blobs")) / live, blobs / live, live))
    mb = 1e6
    name = f"{days} days of forever-incremental, 30 daily and 12 monthly points"
    whole, of_blobs, live = ratios[-1]
    worst = max(range(len(ratios)), key=lambda at: ratios[at][0])
    worst_whole, _, worst_live = ratios[worst]
    return [
        Result(f"{name}: repository", whole * live / mb, live / mb, "MB", 1.6, "live data"),
        Result(f"{name}: its blobs", of_blobs * live / mb, live / mb, "MB", 1.6, "live data"),
        Result(
            f"{name}: repository, worst of all days",
            worst_whole * worst_live / mb,
            worst_live / mb,
            "MB",
            2.0,
            "live data",
        ),
        Result(
            f"{name}: copied by compaction",
            copied / mb,
            nights.written_bytes / mb,
            "MB",
            None,
            "written by backups",
        ),
        Result(f"{name}: longest prune", longest_s, 1, "s", None, "one second"),
    ]


def _night(
    repository: Repository, image: Path, content: memoryview, chooser: random.Random, day: int, disk_id: str
) -> Backup:
    """Store the backup of one night. The first is a full."""
    if day == 0:
        with RawFileSource(image) as source:
            return chains.store(repository, source, None, 0, disk_id)
    grains = len(content) // GRAIN
    hot = grains // HOT_DISK
    count = max(1, grains // CHANGED)
    changed = {
        chooser.randrange(hot) if chooser.random() < HOT_CHANGES else chooser.randrange(grains)
        for _ in range(count)
    }
    shifted = chains.ShiftedSource(content, sorted(changed), day * 37 * GRAIN)
    newest = repository.catalog.points()[0]
    return chains.store(repository, shifted, newest, 24 * day, disk_id)


def _frames(repository: Repository, backup: Backup) -> Iterator[tuple[int, int, float]]:
    with repository.open_index(backup, backup.streams[0]) as index:
        for row in index.rows():
            stored = (row.blob_length or 0) * GRAIN / row.length
            yield row.start // GRAIN, row.length // GRAIN, stored


def _day(backup: Backup) -> int:
    return (backup.point - chains.FIRST).days


def _size(folder: Path, but: str | None = None) -> int:
    files = (path for path in folder.glob("**/*") if path.is_file())
    return sum(
        path.stat().st_size for path in files if but is None or but not in path.relative_to(folder).parts
    )


def _raise(line: str) -> None:
    raise RuntimeError(line)


@contextmanager
def _mapped(image: Path) -> Iterator[memoryview]:
    with (
        image.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        yield content


if __name__ == "__main__":
    if sys.argv[1:2] == ["consolidate"]:
        print(json.dumps(consolidate_newest(*sys.argv[2:])))
    elif sys.argv[1:2] != ["nothing"]:
        measure.main(benchmark)
