# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare copying files of a point with a restore to an image file and debugfs."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import disks
import measure
from measure import Result, Size

from pitr import copy, open_sink, open_source
from pitr.lab.host.filesystem import make_ext4, program
from pitr.repository import Repository


def benchmark(size: Size) -> list[Result]:
    disk_bytes = min(size.disk_bytes, measure.GIB)
    with measure.folder() as folder:
        files = folder / "files"
        disks.real_files(files, disk_bytes // 2)
        small_path = min((path for path in files.rglob("*.py") if path.is_file()), key=lambda path: path.name)
        small, name = small_path.read_text(), f"/{small_path.relative_to(files)}"
        image, place = folder / "disk.raw", folder / "repository"
        make_ext4(image, disk_bytes, files)
        with Repository.create(place) as repository:
            moment = datetime(2020, 6, 29, 22, tzinfo=UTC)
            with (
                open_source(image) as source,
                open_sink(repository, source.size, vm="web1", disk="system", time=moment) as sink,
            ):
                copy(source, sink)
        numbers = itertools.count()
        debugfs = program("debugfs")

        def pitr(*words: object) -> str:
            command = [sys.executable, "-m", "pitr", *(str(word) for word in words)]
            return measure.run(command, {"PITR_REPO": str(place)}).output

        def restored() -> Path:
            raw = folder / f"{next(numbers)}.raw"
            pitr("restore", "--at", "now", "--to-file", raw)
            return raw

        def copy_all(target: Path) -> None:
            pitr("files", "cp", "--at", "now", "/", f"{target}/")

        def dump_all(target: Path) -> None:
            raw = restored()
            target.mkdir()
            measure.run([debugfs, "-R", f"rdump / {target}", str(raw)])
            raw.unlink()

        def timed(work: Callable[[Path], None]) -> float:
            """Return the seconds of a copy of all files, without the comparison."""
            target = folder / f"{next(numbers)}"
            took = measure.seconds(lambda: work(target))
            measure.run(["diff", "-rq", "--no-dereference", "-x", "lost+found", str(files), str(target)])
            shutil.rmtree(target)
            return took

        def print_one() -> None:
            assert pitr("files", "cat", "--at", "now", name) == small

        def dump_one() -> None:
            raw = restored()
            assert measure.run([debugfs, "-R", f"cat {name}", str(raw)]).output == small
            raw.unlink()

        all_files = measure.in_turn(
            size.runs, {"pitr files cp": lambda: timed(copy_all), "restore, debugfs": lambda: timed(dump_all)}
        )
        one_file = measure.in_turn(
            size.runs,
            {
                "pitr files cat": lambda: measure.seconds(print_one),
                "restore, debugfs": lambda: measure.seconds(dump_one),
            },
        )
    held = f"a disk of {disk_bytes // measure.MIB} MiB, half full"
    return [
        measure.compared(f"all files of {held}", all_files, "pitr files cp", "restore, debugfs", goal=None),
        measure.compared(
            f"one small file of {held}", one_file, "pitr files cat", "restore, debugfs", goal=1.0
        ),
    ]


if __name__ == "__main__":
    measure.main(benchmark)
