# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a restore of a full and many incrementals with one full, an upload, and a naive replay."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import chains
import disks
import measure
from measure import Result, Size

from pitr.endpoints.points.point import open_point
from pitr.repository import Repository

ONE_COPY = Path(__file__).with_name("one_copy.py")


def benchmark(size: Size) -> list[Result]:
    disk_bytes = min(size.disk_bytes, measure.GIB)
    incrementals = 20 if size.quick else 100
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, disk_bytes)
        with Repository.create(folder / "repository") as repository:
            chain = chains.make_chain(repository, image, incrementals)
            with open_point(repository, *chain.newest) as source:
                live = source.extents().data_bytes
                whole = chains.store(repository, source, None, incrementals + 1, chain.newest[1].disk_id)
        consolidated, newest_consolidated = _consolidated(folder, chain.newest[0].backup_id)
        flat = folder / "flat.raw"
        _restore_to_file(folder / "repository", whole.backup_id, flat)
        qcow2 = folder / "flat.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(flat), str(qcow2)], check=True)
        with disks.host(folder / "h", unix_socket=True) as host:
            numbers = itertools.count()
            reports: dict[str, dict[str, float]] = {}

            def upload(what: str, before: tuple[object, ...], after: tuple[object, ...] = ()) -> float:
                """Run a copy to a new disk, and check the content of the disk."""
                volume = f"v{next(numbers)}"
                host.create_volume(volume, disk_bytes, "cow")
                url = host.serve_volume(volume, read_only=False)
                ticket, address = disks.ticket(host, url, disk_bytes, ops=("write",))
                command = (before[0], *before[1:], address.transfer_url, host.cafile)
                report = json.loads(measure.run_python(ONE_COPY, *command).output)
                described = host.ticket(ticket) or {}
                report["transferred"] = described.get("transferred") or 0
                reports[what] = report
                while not host.remove_ticket(ticket):
                    continue
                host.stop_serving(volume)
                path = host.volume(volume).path
                subprocess.run(
                    ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", str(flat), str(path)],
                    check=True,
                )
                host.delete_volume(volume)
                return float(report["wall_s"])

            place, newest = folder / "repository", chain.newest[0].backup_id
            samples = measure.in_turn(
                size.runs,
                {
                    "chain": lambda: upload("chain", ("pitr-restore", place, newest)),
                    "one full": lambda: upload("one full", ("pitr-restore", place, whole.backup_id)),
                    "upload-disk": lambda: upload("upload-disk", ("client-upload", qcow2)),
                    "consolidated": lambda: upload(
                        "consolidated", ("pitr-restore", consolidated, newest_consolidated)
                    ),
                    "replay": lambda: upload("replay", ("replay", place, newest)),
                },
            )
    name = f"restore of a full and {incrementals} incrementals"
    report = reports["chain"]
    return [
        measure.compared(name, samples, "chain", "one full", goal=1.10),
        measure.compared(f"{name}, consolidated", samples, "consolidated", "one full", goal=1.02),
        measure.compared(name, samples, "chain", "upload-disk", goal=1.0),
        measure.compared(f"{name}: naive replay", samples, "chain", "replay", goal=None),
        Result(f"{name}: bytes sent", report["written"] / 1e6, live / 1e6, "MB", 1.0, "live bytes"),
        Result(
            f"{name}: bytes sent",
            report["written"] / 1e6,
            reports["replay"]["written"] / 1e6,
            "MB",
            None,
            "replay",
        ),
        Result(
            f"{name}: frames decompressed",
            report["frames_read"],
            report["frames_needed"],
            "",
            1.0,
            "frames needed",
        ),
    ]


def _consolidated(folder: Path, newest: str) -> tuple[Path, str]:
    """Return a copy of the repository in which the newest point is consolidated, and that point's id."""
    from pitr.jobs.consolidate.one_point import consolidate

    copied = folder / "consolidated"
    shutil.copytree(folder / "repository", copied)
    with Repository.open(copied) as repository:
        [created] = consolidate(repository, repository.record_of(newest)).created
    return copied, created.backup_id


def _restore_to_file(repository: Path, backup_id: str, target: Path) -> None:
    measure.run_python(Path(__file__), "to-file", repository, backup_id, target)


def to_file(repository: str, backup_id: str, target: str) -> None:
    from pitr.copier import copy
    from pitr.endpoints.images.raw_file import RawFileSink

    with Repository.open(Path(repository)) as opened:
        backup = opened.record_of(backup_id)
        with open_point(opened, backup, backup.streams[0]) as source:
            sink = RawFileSink(Path(target), source.size)
            try:
                copy(source, sink)
            finally:
                sink.abort()


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["to-file"]:
        to_file(*sys.argv[2:])
    else:
        measure.main(benchmark)
