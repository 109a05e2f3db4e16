# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a served point: sequential reads, random reads, and the time to the first byte.

Peers are `zstd -dc` of the same blobs on all cores, nbdkit (if it is installed) with the raw disk, and qemu-nbd
with a compressed qcow2 of it. Cold means that no frame is decompressed yet. The system's cache holds all files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import chains
import disks
import measure
from measure import Result, Size

from pitr.endpoints.points.point import open_point
from pitr.model import Backup, Stream
from pitr.nbd.client import Client, parse_url
from pitr.repository import Repository, names
from pitr.repository.index import Index

GOAL_SEQUENTIAL = 1.2
#: Of the processor time of a cold read without the folder.
GOAL_FILLED = 0.2
GOAL_FIRST_BYTE_S = 0.5
INCREMENTALS = 99
_READ = 4096
#: An odd number of blocks, to visit all of them; larger than any read-ahead.
_STEP = 1029 * _READ
_WARM_READS = 20_000


def benchmark(size: Size) -> list[Result]:
    runs = size.runs
    with measure.folder() as folder, Repository.create(folder / "r") as repository:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        chain = chains.make_chain(repository, image, INCREMENTALS // 5 if size.quick else INCREMENTALS)
        full = chain.backups[0]
        results = _sequential(repository, full, image, runs)
        results += _long_chain(repository, chain, runs)
        results += _random(repository, full, image, size.disk_bytes, runs)
        results += _cache_folder(repository, full, image, size.disk_bytes, runs)
        results += _first_byte(repository, chain, runs)
    return results


def _sequential(repository: Repository, full: Backup, image: Path, runs: int) -> list[Result]:
    folder = image.parent
    parts = _parts(repository, full.streams[0], folder)
    qcow2 = _compressed(image)
    samples = measure.in_turn(
        runs,
        {
            "pitr": partial(_copied, _pitr(repository, full)),
            "zstd, all cores": partial(_decompressed, parts),
            "zstd, one core": partial(_decompressed, [_blob(repository, full.streams[0])]),
            "qemu-nbd, compressed qcow2": partial(_copied, ["qemu-nbd", "-f", "qcow2", str(qcow2)]),
            **_nbdkit(image, _copied),
        },
    )
    name = f"nbdcopy, {full.streams[0].data_bytes / 1e6:.0f} MB of a full"
    return [
        measure.compared(
            name, samples, "pitr", peer, goal=GOAL_SEQUENTIAL if peer == "zstd, all cores" else None
        )
        for peer in list(samples)[1:]
    ]


def _long_chain(repository: Repository, chain: chains.Chain, runs: int) -> list[Result]:
    point, stream = chain.newest
    blobs = [_blob(repository, part) for _, part in repository.chain(point, stream)]
    with open_point(repository, point, stream) as source:
        live = source.extents().data_bytes
    samples = measure.in_turn(
        runs,
        {
            "pitr": partial(_copied, _pitr(repository, point)),
            "zstd, all cores": partial(_decompressed, blobs),
        },
    )
    name = f"nbdcopy, {live / 1e6:.0f} MB of a chain of {len(blobs)}"
    return [measure.compared(name, samples, "pitr", "zstd, all cores", goal=GOAL_SEQUENTIAL)]


def _random(repository: Repository, full: Backup, image: Path, disk_bytes: int, runs: int) -> list[Result]:
    cache = f"--cache-size={2 * disk_bytes}"
    results = []
    cold_reads = disk_bytes // measure.MIB
    for name, count, depth, warm in (
        ("random 4 KiB, cold, one at a time", cold_reads, 1, False),
        ("random 4 KiB, cold, 16 at once", cold_reads, 16, False),
        ("random 4 KiB, warm, one at a time", _WARM_READS, 1, True),
        ("random 4 KiB, warm, 16 at once", _WARM_READS, 16, True),
    ):
        read = partial(_read_at_random, count=count, depth=depth, warm=warm)
        samples = measure.in_turn(
            runs,
            {
                "pitr": partial(read, _pitr(repository, full, cache)),
                "qemu-nbd, compressed qcow2": partial(
                    read, ["qemu-nbd", "-f", "qcow2", str(_compressed(image))]
                ),
                **_nbdkit(image, read),
            },
        )
        results += [
            measure.compared(name, samples, "pitr", peer, goal=None, unit="us a read")
            for peer in list(samples)[1:]
        ]
    return results


def _cache_folder(
    repository: Repository, full: Backup, image: Path, disk_bytes: int, runs: int
) -> list[Result]:
    """Compare cold random reads without --cache-dir, while they fill the folder, and when it is filled."""
    folder = image.parent / "cache"
    options = (f"--cache-dir={folder}", f"--cache-dir-size={2 * disk_bytes}")
    count = disk_bytes // measure.MIB
    results = []

    def empty() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        return _cpu_of_random_reads(_pitr(repository, full, *options), count)

    def filled() -> float:
        _copied(_pitr(repository, full, *options))
        return _cpu_of_random_reads(_pitr(repository, full, *options), count)

    samples = measure.in_turn(
        runs,
        {
            "without a folder": lambda: _cpu_of_random_reads(_pitr(repository, full), count),
            "empty": empty,
            "filled": filled,
        },
    )
    for name in ("empty", "filled"):
        results.append(
            measure.compared(
                f"CPU of random 4 KiB, cold, --cache-dir {name}",
                samples,
                name,
                "without a folder",
                goal=GOAL_FILLED if name == "filled" else None,
                unit="us a read",
            )
        )
    return results


def _first_byte(repository: Repository, chain: chains.Chain, runs: int) -> list[Result]:
    samples = [_first_byte_s(_pitr(repository, chain.backups[-1])) for _ in range(runs)]
    taken = measure.median(samples)
    return [
        Result(
            f"first byte of a chain of {len(chain.backups)}, from the start of pitr",
            taken,
            GOAL_FIRST_BYTE_S,
            "s",
            1.0,
            "the goal",
            samples={"pitr": samples},
        )
    ]


# Measurements


def _copied(server: Sequence[str]) -> float:
    """Return the seconds of nbdcopy from a cold server."""
    with _serving(server) as uri:
        return measure.run(["nbdcopy", uri, "null:"]).wall_s


def _read_at_random(server: Sequence[str], *, count: int, depth: int, warm: bool) -> float:
    """Return the microseconds per read from a cold or a warm server."""
    with _serving(server) as uri:
        if warm:
            measure.run(["nbdcopy", uri, "null:"])
        command = ["qemu-img", "bench", "-f", "raw", "-c", str(count), "-d", str(depth)]
        said = measure.run([*command, "-s", str(_READ), "-S", str(_STEP), uri]).output
    return float(said.partition("completed in ")[2].split()[0]) / count * 1e6


def _cpu_of_random_reads(server: Sequence[str], count: int) -> float:
    """Return the microseconds of the server's CPU time per read of 4 KiB from a cold server."""
    with _started(server) as (uri, process):
        before = _cpu_s(process.pid)
        command = ["qemu-img", "bench", "-f", "raw", "-c", str(count), "-d", "1"]
        measure.run([*command, "-s", str(_READ), "-S", str(_STEP), uri])
        return (_cpu_s(process.pid) - before) / count * 1e6


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _first_byte_s(server: Sequence[str]) -> float:
    """Return the seconds from the start of the server until a client has read a block."""
    start = time.perf_counter()
    with _serving(server) as uri, Client(*parse_url(uri)) as client:
        client.read_into(0, memoryview(bytearray(_READ)))
        return time.perf_counter() - start


def _decompressed(blobs: Sequence[Path]) -> float:
    """Return the seconds of `zstd -dc` of all `blobs`, one at a time on each core."""
    todo = list(blobs)[::-1]
    running: list[subprocess.Popen[bytes]] = []
    start = time.perf_counter()
    while todo or running:
        while todo and len(running) < len(os.sched_getaffinity(0)):
            running.append(subprocess.Popen(["zstd", "-dcq", str(todo.pop())], stdout=subprocess.DEVNULL))
        ended = os.wait()[0]
        for child in [child for child in running if child.pid == ended]:
            running.remove(child)
    return time.perf_counter() - start


# Servers


def _pitr(repository: Repository, backup: Backup, *options: str) -> list[str]:
    command = [sys.executable, "-m", "pitr", "serve", "--repo", str(repository.path)]
    return [*command, "--point", backup.backup_id, *options]


def _nbdkit(image: Path, measured: Callable[[Sequence[str]], float]) -> dict[str, Callable[[], float]]:
    if shutil.which("nbdkit") is None:
        return {}
    return {"nbdkit, raw file": partial(measured, ["nbdkit", "file", str(image)])}


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[str]:
    """Start a server, and yield its URI when it accepts clients."""
    with _started(command) as (uri, _):
        yield uri


@contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with measure.folder() as folder:
        place = folder / "s"
        uri = f"nbd+unix:///?socket={place}"
        if command[0] == "nbdkit":
            options = ["--foreground", "--readonly", f"--unix={place}"]
        elif command[0] == "qemu-nbd":
            options = ["--read-only", "--persistent", "--shared=16", f"--socket={place}"]
        else:
            options = [f"--socket={place}", "--output=json"]
        full = [command[0], *options, *command[1:]] if command[0] == "nbdkit" else [*command, *options]
        with subprocess.Popen(full, stdout=subprocess.PIPE) as server:
            try:
                if command[0] not in ("nbdkit", "qemu-nbd"):
                    assert server.stdout is not None
                    uri = json.loads(server.stdout.readline())["serve"]["disks"][0]["uri"]
                while not place.exists():
                    assert server.poll() is None
                    time.sleep(0.001)
                yield uri, server
            finally:
                server.terminate()


# Served disks


def _blob(repository: Repository, stream: Stream) -> Path:
    return repository.store.local_file(names.blob(stream.disk_id, stream.stream_id))


def _parts(repository: Repository, stream: Stream, folder: Path) -> list[Path]:
    """Cut the blob between frames into parts with about the same data, one for each core."""
    cores = len(os.sched_getaffinity(0))
    with Index(repository.store.local_file(names.index(stream.disk_id, stream.stream_id))) as index:
        rows = [(row.length, row.blob_offset) for row in index.rows() if row.blob_offset is not None]
    share = sum(length for length, _ in rows) / cores
    cuts, read = [0], 0
    for length, offset in rows:
        if read >= share * len(cuts):
            cuts.append(offset)
        read += length
    blob = _blob(repository, stream).read_bytes()
    parts = []
    for number, (start, end) in enumerate(zip(cuts, [*cuts[1:], len(blob)], strict=True)):
        parts.append(folder / f"part{number}.zst")
        parts[-1].write_bytes(blob[start:end])
    return parts


def _compressed(image: Path) -> Path:
    path = image.with_suffix(".qcow2")
    if not path.exists():
        measure.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(image), str(path)])
    return path


if __name__ == "__main__":
    measure.main(benchmark)
