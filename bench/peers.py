# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a full backup with other programs: qemu-img's compressed qcow2, borg and restic.

Each reads the same disk from the same qemu-nbd (pitr through imageio's unix socket) and stores it compressed. Programs
that are not installed are skipped.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import disks
import measure
from measure import Result, Size

from pitr.nbd.client import parse_url

ONE_COPY = Path(__file__).with_name("one_copy.py")
PITR = "pitr"
_PROGRAMS = {"qemu-img -c": ("qemu-img",), "borg": ("borg", "nbdcopy"), "restic": ("restic", "nbdcopy")}


def benchmark(size: Size) -> list[Result]:
    stored: dict[str, int] = {}
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        with disks.host(folder / "h", unix_socket=True) as host:
            host.create_volume("disk", size.disk_bytes, "cow", content=image)
            url = host.serve_volume("disk", read_only=True)
            _, address = disks.ticket(host, url, size.disk_bytes, ops=("read",))
            socket, export = parse_url(url)
            uri = f"nbd+unix:///{export}?socket={socket}"

            def pitr(target: Path) -> float:
                arguments = (address.transfer_url, host.cafile, target, 1, "zero")
                report = json.loads(measure.run_python(ONE_COPY, "pitr-backup", *arguments).output)
                return float(report["wall_s"])

            def program(who: str) -> float:
                target = folder / "target"
                environment = {**os.environ, **_environment(folder)}
                if who == PITR:
                    wall_s = pitr(target)
                else:
                    begin, command = _commands(who, uri, target)
                    _run(begin, environment)
                    wall_s = measure.seconds(lambda: _run(command, environment))
                stored[who] = _size(target)
                shutil.rmtree(target) if target.is_dir() else target.unlink()
                return wall_s

            names = [PITR, *(who for who, needed in _PROGRAMS.items() if all(map(shutil.which, needed)))]
            programs: dict[str, Callable[[], float]] = {who: (lambda who=who: program(who)) for who in names}
            samples = measure.in_turn(min(size.runs, 3), programs)
    results: list[Result] = []
    for who in names[1:]:
        results.append(
            measure.compared(f"full backup beside {who}", samples, PITR, who, goal=1.0, note="unix socket")
        )
        mine, other = stored[PITR] / 1e6, stored[who] / 1e6
        results.append(Result(f"stored beside {who}", mine, other, "MB", None, who))
    return results


def _environment(folder: Path) -> dict[str, str]:
    """Return variables that keep files of these programs in `folder` and stop their questions."""
    return {
        "BORG_BASE_DIR": str(folder / "borg"),
        "RESTIC_CACHE_DIR": str(folder / "restic"),
        "RESTIC_PASSWORD": "bench",
    }


def _commands(who: str, uri: str, target: Path) -> tuple[str, str]:
    """Return two shell commands: the preparation of a run, and the run."""
    source, place = shlex.quote(uri), shlex.quote(str(target))
    if who == "borg":
        return (
            f"borg init --encryption none {place}",
            f"nbdcopy {source} - | borg create --compression zstd,1 {place}::disk -",
        )
    if who == "restic":
        return (
            f"restic init --quiet --repo {place}",
            f"nbdcopy {source} - | restic backup --quiet --repo {place} --stdin --compression auto",
        )
    return "true", f"qemu-img convert -c -O qcow2 -o compression_type=zstd {source} {place}"


def _run(command: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}: exit {done.returncode}: {done.stderr[-2000:]}")


def _size(target: Path) -> int:
    """Return the bytes that `target` occupies on the disk."""
    files = [target, *target.rglob("*")] if target.is_dir() else [target]
    return sum(path.lstat().st_blocks * 512 for path in files)


if __name__ == "__main__":
    measure.main(benchmark)
