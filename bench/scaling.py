# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure how pitr uses more cores: throughput with 1 and 2 workers, and the time that Python's lock is held per GiB.

The source is in memory and the repository on tmpfs; no daemon runs. Calls that release the lock (zstd, BLAKE3, reads
and writes of files, numpy's copies) are timed with the clock of their thread, which counts only CPU time. The rest of
the CPU time of the process holds the lock, or waits for it. So the figure is an upper bound, and other load does not
change it. Its inverse is the ceiling of the throughput with any number of cores.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
from measure import GIB, MIB, Result, Size

GOAL_S = 0.06
GOAL_SPEED_UP = 1.9
_SHM = Path("/dev/shm")  # noqa: S108 - tmpfs
_WHAT = ("backup", "restore", "verify", "serve")
_released = threading.local()
_all: list[list[float]] = []


def benchmark(size: Size) -> list[Result]:
    data = 256 * MIB if size.quick else GIB
    results = []
    for what in _WHAT:
        found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        if what == "serve":
            # The client needs a core, too: on two cores, there is no speed-up to see.
            del found[2]
        samples = measure.in_turn(
            size.runs, {str(workers): _run(what, workers, data, found) for workers in found}
        )
        wall = {workers: measure.median(samples[str(workers)]) for workers in found}
        # What begins and ends a run has another figure: the difference of two sizes is without it.
        small: dict[int, list[dict[str, float]]] = {1: []}
        for _ in range(size.runs):
            _run(what, 1, data // 4, small)()
        held, busy = (
            (
                measure.median([each[name] for each in found[1]])
                - measure.median([each[name] for each in small[1]])
            )
            / (data - data // 4)
            * GIB
            for name in ("held_s", "cpu_s")
        )
        ceilings = ", ".join(f"{_ceiling(held, busy, cores):.1f} GB/s on {cores}" for cores in (4, 8, 16))
        if 2 in found:
            speed = Result(
                f"{what}: 2 workers", GOAL_SPEED_UP, wall[1] / wall[2], "x", 1.0, "speed-up", samples=samples
            )
            results.append(speed)
        results.append(
            Result(
                f"{what}: lock held per GiB",
                held * 1e3,
                GOAL_S * 1e3,
                "ms",
                1.0,
                "the goal",
                f"ceiling {ceilings}",
            )
        )
    return results


def _ceiling(held_s: float, busy_s: float, cores: int) -> float:
    """Return the most GB/s of so many cores: they work at the same time but for what holds the lock."""
    return GIB / max(held_s, busy_s / cores) / 1e9


def _run(what: str, workers: int, data: int, found: dict[int, list[dict[str, float]]]) -> Callable[[], float]:
    def run() -> float:
        report = json.loads(measure.run_python(Path(__file__), what, workers, data).output)
        found[workers].append(report)
        return float(report["wall_s"])

    return run


# In a process of its own


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which adds its CPU time to that outside the lock."""

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            if not hasattr(_released, "spent"):
                _released.spent = [0.0]
                _all.append(_released.spent)
            _released.spent[0] += time.thread_time() - start

    return timed


def _install() -> None:
    """Time what releases the lock. Call it before the first import of pitr."""
    import blake3
    import numpy as np
    import zstandard

    real_digest, real_compressor, real_decompressor = (
        blake3.blake3,
        zstandard.ZstdCompressor,
        zstandard.ZstdDecompressor,
    )

    class Digest:
        def __init__(self, data: Any = b"") -> None:
            self._real = _timed(real_digest)(data) if len(data) else real_digest()
            self.update = _timed(self._real.update)
            self.digest, self.hexdigest = self._real.digest, self._real.hexdigest

    class Compressor:
        def __init__(self, **options: Any) -> None:
            self.compress = _timed(real_compressor(**options).compress)

    class Decompressor:
        def __init__(self) -> None:
            self._real = real_decompressor()
            self.decompress = _timed(self._real.decompress)
            self.decompressobj = self._real.decompressobj

    blake3.blake3, zstandard.ZstdCompressor, zstandard.ZstdDecompressor = Digest, Compressor, Decompressor  # type: ignore[assignment, misc]
    for name in ("pread", "preadv", "write", "fsync"):
        setattr(os, name, _timed(getattr(os, name)))
    np.copyto = _timed(np.copyto)
    for name in ("sendmsg", "sendall", "recv_into"):
        setattr(socket.socket, name, _timed(getattr(socket.socket, name)))


class _Source:
    """A disk in memory. A copy of it does not hold the lock, like receiving from a socket."""

    max_readers = 64

    def __init__(self, content: Any, size: int) -> None:
        self._content, self.size = content, size

    def extents(self) -> Any:
        from pitr.extents import ExtentMap

        return ExtentMap.of([(0, self.size, False)])

    @contextmanager
    def open_reader(self) -> Iterator[_Source]:
        yield self

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        import numpy as np

        at = 0
        for offset, length in ranges:
            start = offset % (len(self._content) - length)
            np.copyto(
                np.frombuffer(buffer[at : at + length], np.uint8), self._content[start : start + length]
            )
            at += length


class _Sink:
    """Takes data and drops it."""

    max_writers = 64
    reads_zero = True

    @contextmanager
    def open_writer(self) -> Iterator[_Sink]:
        yield self

    def write(self, offset: int, data: memoryview) -> None:
        """Drop the data."""

    def flush(self) -> None:
        """Do nothing."""


def _child(what: str, workers: int, data: int) -> dict[str, float]:
    _install()
    import numpy as np

    from pitr.system import malloc

    malloc.recycle()
    import chains
    from counted_work import content as files

    from pitr.copier import copy
    from pitr.endpoints.points.point import open_point
    from pitr.jobs.serve.over_nbd import serving
    from pitr.jobs.verify.stored_data import Scope, verify
    from pitr.repository import Repository
    from pitr.system.sockets import unix_listener

    content = np.frombuffer(files(1, 48 * MIB), np.uint8)
    place = _SHM / f"pitr-scaling-{uuid.uuid4().hex}"
    try:
        with Repository.create(place) as repository:

            def back_up() -> None:
                chains.store(repository, _Source(content, data), None, 0, str(uuid.uuid4()), workers=workers)  # type: ignore[arg-type]

            def restore() -> None:
                (backup,) = repository.catalog.points()
                with open_point(repository, backup, backup.streams[0]) as source:
                    copy(source, _Sink(), workers=workers)  # type: ignore[arg-type]

            def check_all() -> None:
                assert verify(repository, Scope(), "full", workers=workers).ok

            def serve() -> None:
                """Read all of it with a client in another process."""
                (backup,) = repository.catalog.points()
                with (
                    unix_listener(place / "s") as listener,
                    serving(repository, backup, backup.streams, listener),
                ):
                    subprocess.run(
                        [
                            "nbdcopy",
                            f"--connections={workers}",
                            f"nbd+unix:///?socket={place / 's'}",
                            "null:",
                        ],
                        check=True,
                    )

            if what != "backup":
                back_up()
            for spent in _all:
                spent[0] = 0.0
            work = {"backup": back_up, "restore": restore, "verify": check_all, "serve": serve}[what]
            start, before_s = time.perf_counter(), time.process_time()
            work()
            wall_s, cpu_s = time.perf_counter() - start, time.process_time() - before_s
    finally:
        import shutil

        shutil.rmtree(place, ignore_errors=True)
    return {"wall_s": wall_s, "cpu_s": cpu_s, "held_s": cpu_s - sum(spent[0] for spent in _all)}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _WHAT:
        print(json.dumps(_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        measure.main(benchmark)
