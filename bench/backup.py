# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a full backup with a download of the same disk to qcow2 by imageio's own client."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import disks
import measure
from measure import Result, Size

ONE_COPY = Path(__file__).with_name("one_copy.py")
GOALS = {"TLS": 0.85, "unix socket": 1.0}
GOAL_STORED = 0.37
GOAL_CPU = 1.25
LEVEL = 1


def benchmark(size: Size) -> list[Result]:
    results: list[Result] = []
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        for way, goal in GOALS.items():
            results += _one_way(folder, image, size, way, goal)
    return results


def _one_way(folder: Path, image: Path, size: Size, way: str, goal: float) -> list[Result]:
    reports: dict[str, list[dict[str, float]]] = {}
    with disks.host(folder / way[:1], unix_socket=way != "TLS") as host:
        host.create_volume("disk", size.disk_bytes, "cow", content=image)
        url = host.serve_volume("disk", read_only=True)
        _, address = disks.ticket(host, url, size.disk_bytes, ops=("read",))

        def program(what: str, *arguments: object) -> float:
            report: dict[str, float] = json.loads(measure.run_python(ONE_COPY, what, *arguments).output)
            reports.setdefault(what, []).append(report)
            return report.get("wall_s", 0.0)

        def pitr() -> float:
            wall_s = program(
                "pitr-backup", address.transfer_url, host.cafile, folder / "repository", LEVEL, "zero"
            )
            shutil.rmtree(folder / "repository")
            return wall_s

        def client() -> float:
            wall_s = program("client-download", address.transfer_url, host.cafile, folder / "disk.qcow2")
            (folder / "disk.qcow2").unlink()
            return wall_s

        def compress() -> float:
            return program("compress", image, LEVEL)

        samples = measure.in_turn(
            size.runs, {"pitr": pitr, "ovirt_imageio.client": client, "compress": compress}
        )
    backup, alone = reports["pitr-backup"], reports["compress"]
    cpu = measure.median([report["cpu_s"] for report in backup])
    # imageio and the file system report slightly different amounts of data: compare the time per byte.
    alone_s = measure.median([report["cpu_s"] for report in alone]) * backup[0]["data"] / alone[0]["data"]
    name = f"full backup, {way}, {size.disk_bytes / measure.GIB:g} GiB disk"
    results = [
        measure.compared(name, samples, "pitr", "ovirt_imageio.client", goal=goal),
        Result(f"{name}: client CPU", cpu, alone_s, "s", GOAL_CPU, "compress+digest alone"),
    ]
    if way == "TLS":
        stored, data = backup[0]["stored"], backup[0]["data"]
        note = f"client's qcow2: {reports['client-download'][0]['stored'] / 1e6:.0f} MB"
        results.append(Result("stored size", stored / 1e6, data / 1e6, "MB", GOAL_STORED, "the data", note))
    return results


if __name__ == "__main__":
    measure.main(benchmark)
