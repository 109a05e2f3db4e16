# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare incremental backups of scattered changes with one of the same bytes in one piece."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import disks
import measure
from measure import Result, Size

from pitr.lab.host.host import Host

ONE_COPY = Path(__file__).with_name("one_copy.py")
GRAIN = 1 << 16
GOAL = 1.2


def benchmark(size: Size) -> list[Result]:
    extents = 500 if size.quick else 5000
    with measure.folder() as folder:
        image = folder / "content.raw"
        disks.real_disk(image, (extents * GRAIN * 2 // (256 << 20) + 1) * (256 << 20))
        content = _changed_bytes(image, extents)
        # The close ones have gaps of 144 KiB on average.
        spreads = {
            f"in {size.disk_bytes / measure.GIB:g} GiB": size.disk_bytes,
            "close by": extents * GRAIN * 13 // 4,
        }
        with disks.host(folder / "h", unix_socket=True) as host:
            disk_urls = {
                what: _changed_disk(host, f"scattered-{number}", size.disk_bytes, _scattered(content, spread))
                for number, (what, spread) in enumerate(spreads.items())
            }
            disk_urls["one run"] = _changed_disk(host, "one-run", size.disk_bytes, [(0, content)])
            stored: dict[str, float] = {}

            def backup(what: str) -> float:
                _, address = disks.ticket(host, disk_urls[what], size.disk_bytes, ops=("read",), dirty=True)
                arguments = (address.transfer_url, host.cafile, folder / "repository", 1, "dirty")
                report = json.loads(measure.run_python(ONE_COPY, "pitr-backup", *arguments).output)
                shutil.rmtree(folder / "repository")
                if report["data"] != extents * GRAIN:
                    raise RuntimeError(f"{what}: {report['data']} dirty bytes instead of {extents * GRAIN}")
                stored[what] = report["stored"]
                return float(report["wall_s"])

            samples = measure.in_turn(
                size.runs + 2, {name: (lambda name=name: backup(name)) for name in disk_urls}
            )
    name = f"incremental, {extents} scattered extents of 64 KiB"
    return [measure.compared(f"{name}, {what}", samples, what, "one run", goal=GOAL) for what in spreads]


def _scattered(content: bytes, spread: int) -> list[tuple[int, bytes]]:
    """Return the grains of `content` at random places in the first `spread` bytes of a disk."""
    slots = random.Random(3).sample(range(spread // GRAIN), len(content) // GRAIN)
    return [(slot * GRAIN, content[at * GRAIN : (at + 1) * GRAIN]) for at, slot in enumerate(sorted(slots))]


def _changed_bytes(image: Path, extents: int) -> bytes:
    """Return `extents` grains of the image that hold data."""
    found: list[bytes] = []
    with image.open("rb") as file:
        while len(found) < extents and (grain := file.read(GRAIN)):
            if grain.count(0) < GRAIN // 2:
                found.append(grain)
    return b"".join(found[at % len(found)] for at in range(extents))


def _changed_disk(host: Host, name: str, size: int, changes: list[tuple[int, bytes]]) -> str:
    """Create a disk with a checkpoint and later changes. Return the NBD URL of its incremental backup."""
    host.create_volume(name, size, "cow")
    vm = f"vm-{name}"
    host.start_vm(vm, [name])
    host.begin_backup(vm, f"first-{name}", {name: None}, "c1")
    host.end_backup(f"first-{name}")
    with host.guest(vm, name) as guest:
        for offset, data in changes:
            for at in range(0, len(data), 1 << 20):
                guest.write(offset + at, data[at : at + (1 << 20)])
    host.begin_backup(vm, f"second-{name}", {name: "c1"}, "c2")
    return host.backup_export(f"second-{name}", name)


if __name__ == "__main__":
    measure.main(benchmark)
