# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare receiving a disk over TLS with curl, which is all C, and measure how long it holds Python's lock.

Reads of the TLS connection release the lock. They are timed with the clock of their thread, which counts only CPU
time; the rest of the thread's CPU time holds the lock. Figures are CPU seconds, so other load changes them little.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import disks
import measure
from measure import GIB, MIB, Result, Size

REQUEST = 8 * MIB


def benchmark(size: Size) -> list[Result]:
    data = (64 if size.quick else 512) * MIB
    reports: list[dict[str, float]] = []
    with measure.folder() as folder:
        image = folder / "disk.raw"
        disks.real_disk(image, data)
        with disks.host(folder / "h", unix_socket=False) as host:
            host.create_volume("disk", data, "raw")
            shutil.copyfile(image, host.volume("disk").path)
            url = host.serve_volume("disk", read_only=True)

            def pitr() -> float:
                _, address = disks.ticket(host, url, data, ops=("read",))
                ran = measure.run_python(Path(__file__), "receive", address.transfer_url, host.cafile, data)
                reports.append(json.loads(ran.output))
                return reports[-1]["cpu_s"]

            def curl() -> float:
                _, address = disks.ticket(host, url, data, ops=("read",))
                command = [
                    "curl",
                    "-sSf",
                    "--cacert",
                    str(host.cafile),
                    "-r",
                    f"0-{data - 1}",
                    "-o",
                    os.devnull,
                ]
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([*command, address.transfer_url], check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

            samples = measure.in_turn(size.runs, {"pitr": pitr, "curl": curl})
    held = measure.median([report["held_s"] for report in reports]) / data * GIB
    name = f"receiving {data // MIB} MiB over TLS"
    return [
        measure.compared(f"{name}: client CPU", samples, "pitr", "curl", goal=1.2, note=ssl.OPENSSL_VERSION),
        Result(f"{name}: lock held per GiB", held * 1e3, 60, "ms", None, "the goal of a whole backup"),
    ]


def receive(url: str, cafile: str, size: str) -> dict[str, float]:
    """Receive a whole disk with one reader. Return its CPU seconds, and those that held the lock."""
    from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource

    timed = _Timed()
    connect = ssl.SSLContext.wrap_socket

    def wrap_socket(*arguments: Any, **options: Any) -> ssl.SSLSocket:
        secure = connect(*arguments, **options)
        secure._sslobj = _Secure(secure._sslobj, timed)  # type: ignore[attr-defined]
        return secure

    ssl.SSLContext.wrap_socket = wrap_socket  # type: ignore[method-assign]
    buffer = memoryview(bytearray(REQUEST))
    with ImageioSource(ImageioAddress(url, cafile=cafile)).open_reader() as reader:
        reader.read_ranges([(0, 4096)], buffer[:4096])
        before_s, timed.released_s, timed.calls = time.thread_time(), 0.0, 0
        for at in range(0, int(size), REQUEST):
            count = min(REQUEST, int(size) - at)
            reader.read_ranges([(at, count)], buffer[:count])
        busy_s = time.thread_time() - before_s - timed.cost_s()
    return {"cpu_s": busy_s, "held_s": busy_s - timed.released_s}


class _Timed:
    """Adds up the CPU seconds of calls that release the lock."""

    def __init__(self) -> None:
        self.released_s = 0.0
        self.calls = 0

    def call(self, function: Any, *arguments: Any) -> Any:
        before_s = time.thread_time()
        try:
            return function(*arguments)
        finally:
            self.released_s += time.thread_time() - before_s
            self.calls += 1

    def cost_s(self) -> float:
        """Return the CPU seconds that the clock itself took in all calls."""
        other, before_s = _Timed(), time.thread_time()
        for _ in range(self.calls):
            other.call(int)
        return time.thread_time() - before_s


class _Secure:
    def __init__(self, real: Any, timed: _Timed) -> None:
        self._real = real
        self._timed = timed

    def read(self, *arguments: Any) -> Any:
        return self._timed.call(self._real.read, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        print(json.dumps(receive(*sys.argv[2:])))
    else:
        measure.main(benchmark)
