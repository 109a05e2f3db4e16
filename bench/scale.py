# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a repository with many points: `python bench/scale.py --vms 1000`.

The points are generated: 365 for each VM, with one or two disks. With `--in-catalog`, only the catalog is written. This
is quicker, and enough for everything but `rebuild`.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import measure
from measure import MIB, Result, Size

#: What concerns all points, and takes too long with more than so many.
WHOLE, MOST_WHOLE = ("prune plan", "prune plan, JSON", "list", "list, JSON"), 500_000
#: With --in-catalog, more VMs are copies of these under other ids.
GENERATED = 500
FIRST = datetime(2020, 1, 1, 22, tzinfo=UTC)
#: The goals: the bytes of a point in a catalog of 4 GB, seconds above `pitr --version`, seconds, bytes.
GOAL_POINT_BYTES = 4e9 / 3_650_000
GOAL_LIST_S, GOAL_PLAN_S, GOAL_PLAN_BYTES = 0.3, 1.0, 300e6
#: Bytes of memory a point of a whole plan, above `pitr list VM`.
GOAL_PLAN_POINT_BYTES = 600


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a generated repository."""

    vms: int
    points: int = 365
    in_catalog: bool = False


def history(number: int, points: int) -> Iterator[object]:
    """Yield the backups of a VM, oldest first."""
    from pitr.model import Backup, DiskSettings, Kind, Mode, StoredObject, Stream, VMName

    rng = random.Random(number)

    def new_id() -> str:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def stored(size: int) -> StoredObject:
        return StoredObject(size, rng.randbytes(32).hex())

    vm = VMName(new_id(), f"server{number:05}.example.com")
    disks = [(new_id(), new_id(), name) for name in ("system", "data")[: 1 + number % 2]]
    parent: Backup | None = None
    for at in range(points):
        full = parent is None
        point = FIRST + timedelta(days=at, seconds=rng.randrange(3600), microseconds=rng.randrange(10**6))
        streams = []
        for position, (disk_id, domain, name) in enumerate(disks):
            streams.append(
                Stream(
                    stream_id=new_id(),
                    disk_id=disk_id,
                    name=f"server{number:05}_{name}",
                    kind=Kind.FULL if full else Kind.INCREMENTAL,
                    reason=None,
                    size=100 << 30,
                    parent_stream_id=None if parent is None else parent.streams[position].stream_id,
                    frame_size=1 << 20,
                    data_bytes=rng.randrange(1 << 33),
                    zero_bytes=rng.randrange(1 << 30),
                    extents=rng.randrange(20_000),
                    blob=stored(rng.randrange(1 << 32)),
                    index=stored(rng.randrange(1 << 20)),
                    settings=DiskSettings("cow", True, "virtio_scsi", position == 0, True, True, domain),
                    changes=None if full else "tracked",
                    index_copy=stored(rng.randrange(1 << 20)) if full else None,
                )
            )
        parent = Backup(
            backup_id=new_id(),
            vm=vm,
            kind=Kind.FULL if full else Kind.INCREMENTAL,
            reason="this is its first backup" if full else None,
            point=point,
            lo=point,
            parent_id=None if parent is None else parent.backup_id,
            checkpoint_id=new_id(),
            from_checkpoint_id=None if parent is None else parent.checkpoint_id,
            mode=Mode.LIVE,
            consistency="unknown",
            streams=tuple(streams),
            left_out=(),
            duration_ms=rng.randrange(10**6),
            pitr_version="1.0.0",
            configuration=stored(15_000),
        )
        yield parent


def generate(folder: Path, scale: Scale) -> None:
    """Create a repository of generated points."""
    from pitr.model import StoredObject
    from pitr.repository import Repository, names, record
    from pitr.repository.catalog import Catalog

    with Repository.create(folder) as repository:
        path = repository.catalog_path
    if scale.in_catalog:
        path.unlink(missing_ok=True)
        with Catalog.create(path, quick=True) as catalog:
            for number in range(min(scale.vms, GENERATED)):
                backups = list(history(number, scale.points))
                catalog.add(
                    [(backup, "", StoredObject(2000, backup.backup_id[:8] * 8)) for backup in backups]
                )
            for copy in range(1, -(-scale.vms // GENERATED)):
                _copy(catalog._connection, copy, scale.vms)
            catalog.finish()
        return
    for number in range(scale.vms):
        for backup in history(number, scale.points):
            name = folder / names.record(backup.vm.id, backup.point, backup.backup_id)
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(record.encode(backup))


def _copy(connection: sqlite3.Connection, copy: int, vms: int) -> None:
    """Copy the generated VMs in the catalog under other ids."""
    first = copy * GENERATED

    def row(table: str, **changed: str) -> None:
        columns = [each[1] for each in connection.execute(f"PRAGMA table_info({table})")]
        values = ", ".join(changed.get(column, column) for column in columns)
        number = {"stream_row": "point >> 32", "point_row": "vm", "name_row": "vm"}.get(table, "number")
        connection.execute(
            f"INSERT INTO {table} SELECT {values} FROM {table} WHERE {number} <= {min(GENERATED, vms - first)}"  # noqa: S608
        )

    def other(column: str) -> str:
        return f"CAST(x'{copy:04x}' || substr({column}, 3) AS BLOB)"

    name = f"printf('server%05d.example.com', {first} + substr({{}}, 7, 5))"
    connection.execute("BEGIN")
    row("vm_row", number=f"number + {first}", id=f"'{copy:04x}' || substr(id, 5)", name=name.format("name"))
    row("name_row", vm=f"vm + {first}", name=name.format("name"))
    disks = connection.execute("SELECT max(number) FROM disk_row").fetchone()[0] // copy
    connection.execute(
        f"INSERT INTO disk_row SELECT number + {copy * disks}, '{copy:04x}' || substr(id, 5) "  # noqa: S608
        f"FROM disk_row WHERE number <= {disks}"
    )
    ids = (
        "backup_id",
        "parent_id",
        "checkpoint_id",
        "from_checkpoint_id",
        "configuration_digest",
        "record_digest",
    )
    digests = ("blob_digest", "index_digest", "index_copy_digest")
    number = f"number + ({first} << 32)"
    optional = "iif({} IS NULL, NULL, {})"
    row(
        "point_row",
        number=number,
        vm=f"vm + {first}",
        vm_name=name.format("vm_name"),
        **{each: optional.format(each, other(each)) for each in ids},
    )
    row(
        "stream_row",
        point=f"point + ({first} << 32)",
        disk=f"disk + {copy * disks}",
        **{
            each: optional.format(each, other(each))
            for each in ("stream_id", "parent_stream_id", "storage_domain_id", *digests)
        },
    )
    connection.execute("COMMIT")


def measured(folder: Path, scale: Scale, runs: int) -> list[Result]:
    """Generate a repository in the folder, and measure it."""
    repository = folder / "repository"
    points = scale.vms * scale.points
    start = time.perf_counter()
    generate(repository, scale)
    print(f"generated {points:,} points in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    title = f"{points:,} points of {scale.vms:,} VMs"
    results = []
    if not scale.in_catalog:
        rebuilt = _child(repository, "catalog", "rebuild")
        results.append(
            Result(
                f"seconds for 4,000 records, {title}", 4000 * rebuilt[0] / points, 1.0, "s", 1.0, "the goal"
            )
        )
        results.append(
            Result(
                f"catalog rebuild: memory, {title}",
                rebuilt[1] / MIB,
                GOAL_PLAN_BYTES / MIB,
                "MiB",
                1.0,
                "the goal",
            )
        )
    size = (repository / "catalog.db").stat().st_size / points
    results.append(Result(f"bytes a point, {title}", size, GOAL_POINT_BYTES, "bytes", 1.0, "the goal"))
    vm = f"server{scale.vms // 2:05}.example.com"
    keep = ("prune", "--keep-last", "10", "--dry-run")
    programs = {
        "--version": ("--version",),
        "list VM": ("list", vm),
        "status VM": ("status", vm),
        "prune plan of a VM": (*keep, vm),
        "prune plan": keep,
        "prune plan, JSON": (*keep, "--output", "json"),
        "list": ("list",),
        "list, JSON": ("list", "--output", "json"),
    }
    if points > MOST_WHOLE:
        programs = {name: program for name, program in programs.items() if name not in WHOLE}
    walls = {name: [] for name in programs}
    peaks = {name: [] for name in programs}
    for _ in range(runs):
        for name, arguments in programs.items():
            wall, peak = _child(repository, *arguments)
            walls[name].append(wall)
            peaks[name].append(peak)
    wall = {name: measure.median(values) for name, values in walls.items()}
    peak = {name: measure.median(values) for name, values in peaks.items()}
    for name, goal in (
        ("list VM", GOAL_LIST_S),
        ("status VM", GOAL_LIST_S),
        ("prune plan of a VM", GOAL_PLAN_S),
    ):
        more = max(0.0, wall[name] - (wall["--version"] if goal == GOAL_LIST_S else 0))
        above = " above --version" if goal == GOAL_LIST_S else ""
        results.append(
            Result(f"{name}{above}, {title}", more, goal, "s", 1.0, "the goal", "", {name: walls[name]})
        )
    for name in (name for name in WHOLE if name in peak):
        above = (peak[name] - peak["list VM"]) / points
        note = f"{wall[name]:.1f} s, {peak[name] / MIB:.0f} MiB"
        results.append(
            Result(
                f"{name}: memory a point above list VM, {title}",
                above,
                GOAL_PLAN_POINT_BYTES,
                "bytes",
                1.0,
                "the goal",
                note,
            )
        )
    return results


def _child(repository: Path, *arguments: str) -> tuple[float, int]:
    """Run pitr in a process of its own. Return its wall seconds and its peak memory in bytes."""
    ran = measure.run_python(
        Path(__file__),
        "--run",
        json.dumps(arguments),
        environment={"PITR_REPO": str(repository), "TZ": "UTC"},
    )
    return ran.wall_s, int(ran.output.splitlines()[-1])


def _run(arguments: list[str]) -> None:
    import contextlib
    import os

    out = os.dup(1)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        sys.argv = ["pitr", *arguments]
        with contextlib.suppress(SystemExit):
            from pitr.cli.main import main

            main()
        sys.stdout.flush()
    os.write(out, f"{measure.peak_bytes()}\n".encode())


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder:
        return measured(folder, Scale(vms=20 if size.quick else 200), 1 if size.quick else 3)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=100)
    parser.add_argument("--points", type=int, default=365, help="of each VM")
    parser.add_argument("--in-catalog", action="store_true", help="write no records")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run is not None:
        _run(json.loads(given.run))
        return
    with measure.folder() as folder:
        print(measure.table(measured(folder, Scale(given.vms, given.points, given.in_catalog), given.runs)))


if __name__ == "__main__":
    _main()
