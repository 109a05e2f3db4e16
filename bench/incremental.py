# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare incremental backups of scattered changes with their limit, and with one of the same bytes in one piece.

The limit is range_client.c, which sends the same requests over as many connections and drops the data. No client can
be faster than it. A client that also stores the data needs at least the CPU time of daemon, qemu and this client, and
of compressing and digesting alone: this sum over the cores is the limit by arithmetic. It holds also on a machine with
other load, because it consists of CPU seconds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import disks
import measure
from measure import Result, Size

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.plan import plan
from pitr.copier.requests import combine
from pitr.lab.host.host import Host
from pitr.ovirt.imageio.disk import MAX_GAP, MAX_REQUEST, ImageioSource
from pitr.ovirt.imageio.session import REQUESTS_AHEAD, ImageioSession

ONE_COPY = Path(__file__).with_name("one_copy.py")
CLIENT = Path(__file__).with_name("range_client.c")
GRAIN = 1 << 16
GOAL = 1.2
ONE_RUN = "one run"
LEVEL = 1


def benchmark(size: Size) -> list[Result]:
    extents = 500 if size.quick else 5000
    with measure.folder() as folder:
        image = folder / "content.raw"
        disks.real_disk(image, (extents * GRAIN * 2 // (256 << 20) + 1) * (256 << 20))
        content = _changed_bytes(image, extents)
        image.write_bytes(content)
        # The close ones have gaps of 144 KiB on average.
        spreads = {
            f"in {size.disk_bytes / measure.GIB:g} GiB": size.disk_bytes,
            "close by": extents * GRAIN * 13 // 4,
        }
        with disks.host(folder / "h", unix_socket=True) as host:
            changed = {
                what: _changed_disk(host, f"scattered-{number}", size.disk_bytes, _scattered(content, spread))
                for number, (what, spread) in enumerate(spreads.items())
            }
            changed[ONE_RUN] = _changed_disk(host, "one-run", size.disk_bytes, [(0, content)])
            bench = _Bench(host, folder, changed, size.disk_bytes, extents * GRAIN)
            programs = {name: (lambda name=name: bench.backup(name)) for name in changed}
            if (client := _c_client(folder)) is not None:
                programs |= {
                    _limit(what): (lambda what=what: bench.receive(client, what)) for what in spreads
                }
            samples = measure.in_turn(size.runs + 2, programs)
        alone_s = json.loads(measure.run_python(ONE_COPY, "compress", image, LEVEL, GRAIN).output)["cpu_s"]
    name = f"incremental, {extents} scattered extents of 64 KiB"
    results = [measure.compared(f"{name}, {what}", samples, what, ONE_RUN, goal=GOAL) for what in spreads]
    for what in spreads if client is not None else ():
        results += _limits(f"{name}, {what}", what, samples, bench.cpu_s, alone_s)
    return results


def _limits(
    name: str, what: str, samples: dict[str, list[float]], cpu_s: dict[str, list[float]], alone_s: float
) -> list[Result]:
    """Return the comparisons with the limits: wall time, and CPU time of all programs."""
    limit = _limit(what)
    all_s = {each: measure.median(cpu_s[each]) for each in (what, limit)}
    cores = os.cpu_count() or 1
    return [
        measure.compared(f"{name}: wall", samples, what, limit, goal=GOAL),
        Result(
            f"{name}: by arithmetic",
            measure.median(samples[what]),
            (all_s[limit] + alone_s) / cores,
            "s",
            GOAL,
            f"CPU of the C client's run and of compressing alone, on {cores} cores",
        ),
        Result(
            f"{name}: CPU of all programs",
            all_s[what],
            all_s[limit] + alone_s,
            "s",
            GOAL,
            "the C client's run and compressing alone",
            samples={what: cpu_s[what], limit: cpu_s[limit]},
        ),
    ]


@dataclass
class _Bench:
    """Runs the programs. `cpu_s` gets the CPU seconds of each run: daemon, qemu and client."""

    host: Host
    folder: Path
    disk_urls: dict[str, str]
    disk_bytes: int
    changed_bytes: int
    cpu_s: dict[str, list[float]] = field(default_factory=dict)

    def backup(self, what: str) -> float:
        """Back up the changes of a disk as pitr does. Return the wall seconds."""
        _, address = disks.ticket(self.host, self.disk_urls[what], self.disk_bytes, ops=("read",), dirty=True)
        arguments = (address.transfer_url, self.host.cafile, self.folder / "repository", LEVEL, "dirty")
        before_s = measure.running_cpu_s()
        report = json.loads(measure.run_python(ONE_COPY, "pitr-backup", *arguments).output)
        self._spent(what, measure.running_cpu_s() - before_s + report["cpu_s"])
        shutil.rmtree(self.folder / "repository")
        if report["data"] != self.changed_bytes:
            raise RuntimeError(f"{what}: {report['data']} dirty bytes instead of {self.changed_bytes}")
        return float(report["wall_s"])

    def receive(self, client: Path, what: str) -> float:
        """Receive the same ranges with the C client. Return the wall seconds."""
        _, address = disks.ticket(self.host, self.disk_urls[what], self.disk_bytes, ops=("read",), dirty=True)
        with ImageioSession(address) as session:
            socket = session.options().unix_socket
        requests = [
            request
            for window in plan(ImageioSource(address, "dirty").extents())
            for request in combine(window.data_ranges, gap=MAX_GAP, limit=MAX_REQUEST)
        ]
        ranges = "".join(f"{request.start} {request.length}\n" for request in requests)
        path = urlsplit(address.transfer_url).path
        command = [str(client), str(socket), path, str(DEFAULT_WORKERS), str(REQUESTS_AHEAD)]
        before_s = measure.running_cpu_s()
        done = subprocess.run(command, input=ranges, capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        self._spent(_limit(what), measure.running_cpu_s() - before_s + report["cpu_s"])
        if report["received"] != sum(request.length for request in requests):
            raise RuntimeError(f"{what}: the C client received {report['received']} bytes")
        return float(report["wall_s"])

    def _spent(self, name: str, seconds: float) -> None:
        self.cpu_s.setdefault(name, []).append(seconds)


def _limit(what: str) -> str:
    return f"C client that drops the data, {what}"


def _c_client(folder: Path) -> Path | None:
    """Compile the C client. Return None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "range_client"
    subprocess.run([compiler, "-O2", "-D_GNU_SOURCE", "-pthread", "-o", program, CLIENT], check=True)
    return program


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
