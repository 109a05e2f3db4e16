# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare look-ups in a repository with very many points with `pitr --version`."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import measure
from measure import Result, Size

#: The time limits of a look-up beyond `pitr --version`, and of `pitr --version`.
GOAL_S = 0.3
GOAL_START_S = 0.25
FIRST = datetime(2020, 1, 1, tzinfo=UTC)


def make_repository(folder: Path, points: int, vms: int) -> tuple[str, str]:
    """Create a repository with records but without streams. Return a VM's name and a point's id."""
    from pitr.model import Backup, DiskSettings, Kind, Mode, StoredObject, Stream, VMName
    from pitr.repository import Repository, names, record

    nothing = StoredObject(1, "0" * 64)
    with Repository.create(folder) as repository:
        chosen = ""
        for number in range(vms):
            vm = VMName(str(uuid.UUID(int=number + 1)), f"vm{number}")
            (folder / names.records_of(vm.id)).mkdir(parents=True)
            disk_id = str(uuid.uuid4())
            parent: Backup | None = None
            for at in range(points // vms):
                full = at % 50 == 0
                stream = Stream(
                    stream_id=str(uuid.uuid4()),
                    disk_id=disk_id,
                    name="system",
                    kind=Kind.FULL if full else Kind.INCREMENTAL,
                    reason=None,
                    size=1 << 30,
                    parent_stream_id=None if full or parent is None else parent.streams[0].stream_id,
                    frame_size=1 << 20,
                    data_bytes=1 << 29,
                    zero_bytes=1 << 29,
                    extents=1000,
                    blob=nothing,
                    index=nothing,
                    settings=DiskSettings(),
                )
                backup = Backup(
                    backup_id=str(uuid.uuid4()),
                    vm=vm,
                    kind=stream.kind,
                    reason="asked for" if full else None,
                    point=FIRST + timedelta(hours=at),
                    lo=FIRST + timedelta(hours=at),
                    parent_id=None if full or parent is None else parent.backup_id,
                    checkpoint_id=str(uuid.uuid4()),
                    from_checkpoint_id=None if full or parent is None else parent.checkpoint_id,
                    mode=Mode.LIVE,
                    consistency="unknown",
                    streams=(stream,),
                    left_out=(),
                    duration_ms=1,
                    pitr_version="0",
                )
                path = folder / names.record(vm.id, backup.point, backup.backup_id)
                path.write_bytes(record.encode(backup))
                parent = replace(backup)
            if parent is not None:
                chosen = parent.backup_id
        repository.rebuild_catalog()
    return f"vm{vms // 2}", chosen


def benchmark(size: Size) -> list[Result]:
    points, vms = (10_000, 50) if size.quick else (100_000, 500)
    runs = 3 if size.quick else 2 * size.runs
    pitr = [str(Path(sys.executable).with_name("pitr"))]
    with measure.folder() as folder:
        repository = folder / "repository"
        vm, point = make_repository(repository, points, vms)
        environment = {"PITR_REPO": str(repository), "TZ": "UTC"}
        at = f"{FIRST + timedelta(hours=100):%Y-%m-%dT%H:%M}Z"

        def wall(*arguments: str) -> Callable[[], float]:
            return lambda: measure.run([*pitr, *arguments], environment).wall_s

        def choice() -> float:
            # Only the choice of the point: the streams do not exist.
            return measure.run(
                [sys.executable, __file__, "choose", str(repository), vm, at], environment
            ).wall_s

        programs = {
            "--version": wall("--version"),
            "--help": wall("--help"),
            f"list {vm}": wall("list", vm),
            "status": wall("status"),
            "status for Nagios": wall("status", "--output", "nagios"),
            "status for Prometheus": wall("status", "--output", "openmetrics"),
            f"status {vm}": wall("status", vm),
            "stats": wall("stats"),
            "show POINT": wall("show", point),
            "the choice for --at": choice,
        }
        for program in programs.values():
            program()
        samples = measure.in_turn(runs, programs)
    start = measure.median(samples["--version"])
    results = [
        Result(
            f"pitr {name}",
            measure.median(samples[name]),
            GOAL_START_S,
            "s",
            1.0,
            "the goal",
            "",
            {name: samples[name]},
        )
        for name in ("--version", "--help")
    ]
    for name in list(programs)[2:]:
        more = max(0.0, measure.median(samples[name]) - start)
        title = f"{name}, {points:,} points of {vms} VMs, more than --version"
        results.append(Result(title, more, GOAL_S, "s", 1.0, "the goal", "", {name: samples[name]}))
    return results


def choose(folder: str, vm: str, at: str) -> None:
    """Find a point as `pitr restore VM --at TIME` does before it opens a stream, with the same imports."""
    from pitr.cli.app import load
    from pitr.jobs import asked_time, find
    from pitr.repository import Repository

    assert load("restore")
    with Repository.open(Path(folder)) as repository:
        print(find.point_of(repository, vm, None, asked_time.parse(at)).backup.backup_id)


if __name__ == "__main__":
    if sys.argv[1:2] == ["choose"]:
        choose(*sys.argv[2:])
    else:
        measure.main(benchmark)
