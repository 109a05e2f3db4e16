# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the peak memory of a backup and a restore, of a small disk and of 1 TiB with the same data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import disks
import measure
from measure import Result, Size

from pitr.repository import Repository

ONE_COPY = Path(__file__).with_name("one_copy.py")
GOAL_RATIO = 1.1
GOAL_BYTES = 250 * measure.MIB
LARGE = 1 << 40


def benchmark(size: Size) -> list[Result]:
    small = size.disk_bytes
    peaks: dict[str, dict[str, float]] = {"backup": {}, "restore": {}}
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, min(small, measure.GIB))
        with disks.host(folder / "h", unix_socket=True) as host:
            for name, disk_bytes in (("small", small), ("1 TiB", LARGE)):
                host.create_volume(f"from-{name[0]}", disk_bytes, "cow", content=image)
                url = host.serve_volume(f"from-{name[0]}", read_only=True)
                _, address = disks.ticket(host, url, disk_bytes, ops=("read",))
                arguments = ("pitr-backup", address.transfer_url, host.cafile, folder / "new", 1, "zero")
                peaks["backup"][name] = _peak(*arguments)
                shutil.rmtree(folder / "new")

                place = folder / f"repository-{name[0]}"
                Repository.create(place).close()
                arguments = ("store", place, address.transfer_url, host.cafile)
                backup_id = measure.run_python(Path(__file__), *arguments).output.strip()
                host.create_volume(f"to-{name[0]}", disk_bytes, "cow")
                url = host.serve_volume(f"to-{name[0]}", read_only=False)
                _, address = disks.ticket(host, url, disk_bytes, ops=("write",))
                arguments = ("pitr-restore", place, backup_id, address.transfer_url, host.cafile)
                peaks["restore"][name] = _peak(*arguments)
    results = []
    for what, peak in peaks.items():
        large, little = peak["1 TiB"] / measure.MIB, peak["small"] / measure.MIB
        results.append(
            Result(f"{what}: peak memory, 1 TiB disk", large, little, "MiB", GOAL_RATIO, "a small disk")
        )
        limit = GOAL_BYTES / measure.MIB
        results.append(Result(f"{what}: peak memory, 1 TiB disk", large, limit, "MiB", 1.0, "the goal"))
    return results


def _peak(*arguments: object) -> float:
    return float(json.loads(measure.run_python(ONE_COPY, *arguments).output)["peak"])


def store(folder: str, url: str, cafile: str) -> None:
    """Store and commit a full of the disk that the daemon serves, and print the backup's id."""
    import chains

    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource

    with Repository.open(Path(folder)) as repository:
        source = ImageioSource(ImageioAddress(url, cafile=cafile))
        print(chains.store(repository, source, None, 0, "22222222-0000-4000-8000-000000000001").backup_id)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["store"]:
        store(*sys.argv[2:])
    else:
        measure.main(benchmark)
