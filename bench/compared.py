# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a backup of a raw disk, of which a part has changed, with a plain download of the disk by imageio's client.

A disk whose checkpoint or bitmap was lost is read and compared in the same way.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import chains
import disks
import measure
from measure import Result, Size

from pitr.endpoints.images.raw_file import RawFileSource
from pitr.repository import Repository

ONE_COPY = Path(__file__).with_name("one_copy.py")
CHANGED = 0.05
GOAL = 0.6
GOAL_STORED = 1.1
GOAL_UNCHANGED = 0.001
_LONGEST = 8
DISK = "22222222-0000-4000-8000-000000000002"


def benchmark(size: Size) -> list[Result]:
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        with Repository.create(folder / "repository") as repository, RawFileSource(image) as source:
            full = chains.store(repository, source, None, 0, DISK)
        stored, data = full.streams[0].stored_bytes, full.streams[0].data_bytes
        unchanged = _backups(folder, image, full.backup_id, replace(size, runs=1))[1]
        changed = change(image, CHANGED, random.Random(5))
        samples, report = _backups(folder, image, full.backup_id, size)
    name = f"raw disk, {CHANGED:.0%} changed, {size.disk_bytes / measure.GIB:g} GiB"
    usual = changed * stored / data
    return [
        measure.compared(name, samples, "pitr", "imageio's client to raw", goal=GOAL),
        measure.compared(f"{name}: wall", samples, "pitr", "imageio's client to qcow2", goal=None),
        Result(
            f"{name}: client CPU",
            report["cpu_s"],
            report["client_cpu_s"],
            "s",
            None,
            "imageio's client to raw",
        ),
        Result(
            f"{name}: stored", report["stored"] / 1e6, usual / 1e6, "MB", GOAL_STORED, "changes x usual ratio"
        ),
        Result(
            "lost checkpoint, nothing changed: stored",
            unchanged["stored"] / 1e6,
            data / 1e6,
            "MB",
            GOAL_UNCHANGED,
            "the data",
        ),
    ]


def change(image: Path, share: float, chance: random.Random) -> int:
    """Fill runs of 64 to 512 KiB with data from other places, in all this share of the data. Return the bytes."""
    grain = chains.GRAIN
    changed = 0
    with image.open("r+b") as file:
        grains = image.stat().st_size // grain
        wanted = share * image.stat().st_blocks * 512
        while changed < wanted:
            length = min(
                chance.randrange(1, _LONGEST + 1) * grain, int(wanted - changed) // grain * grain + grain
            )
            file.seek(chance.randrange(grains - _LONGEST) * grain)
            content = file.read(length)
            # Data of the disk itself, so that it compresses as usual.
            if _has_hole(content):
                continue
            file.seek(chance.randrange(grains - _LONGEST) * grain)
            before = file.read(length)
            if _has_hole(before) or before == content:
                continue
            file.seek(-length, 1)
            file.write(content)
            changed += length
    return changed


def _has_hole(content: bytes) -> bool:
    return any(not any(content[at : at + chains.GRAIN]) for at in range(0, len(content), chains.GRAIN))


def _backups(
    folder: Path, image: Path, backup_id: str, size: Size
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Back up the disk `image` and download it, in turn. Return the wall seconds, and the last report of pitr."""
    report: dict[str, float] = {}
    cpu: dict[str, list[float]] = {}
    with disks.host(folder / f"h{size.runs}-{image.stat().st_mtime_ns}", unix_socket=True) as host:
        host.create_volume("disk", size.disk_bytes, "raw", content=image)
        url = host.serve_volume("disk", read_only=True)
        _, address = disks.ticket(host, url, size.disk_bytes, ops=("read",))

        def program(what: str, *arguments: object) -> float:
            found = json.loads(
                measure.run_python(ONE_COPY, what, address.transfer_url, host.cafile, *arguments).output
            )
            report.update(found if what == "pitr-compared" else {})
            cpu.setdefault(
                " ".join([what, *map(str, arguments[1:] if what == "client-download" else ())]), []
            ).append(float(found["cpu_s"]))
            return float(found["wall_s"])

        def download(image_format: str) -> float:
            target = folder / f"copy.{image_format}"
            wall_s = program("client-download", target, image_format)
            target.unlink()
            return wall_s

        samples = measure.in_turn(
            size.runs,
            {
                "pitr": lambda: program("pitr-compared", folder / "repository", backup_id),
                "imageio's client to raw": lambda: download("raw"),
                "imageio's client to qcow2": lambda: download("qcow2"),
            },
        )
    report["cpu_s"] = measure.median(cpu["pitr-compared"])
    report["client_cpu_s"] = measure.median(cpu["client-download raw"])
    return samples, report


if __name__ == "__main__":
    measure.main(benchmark)
