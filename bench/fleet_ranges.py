# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare one disk on two workers of a fleet with the same on one worker. Each worker has a processor of its own.

`bench/run fleet_ranges`. On a machine that does other work, only the CPU seconds mean something: those of the worker
that works the most.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import chains
import disks
import measure
from measure import Result, Size

GOAL = 0.6


class Workers:
    """A scheduler with some workers, and a connection to it. `run` does a job and returns wall and CPU seconds."""

    def __init__(self, stack: ExitStack, repository: Path, count: int) -> None:
        from pitr.fleet.client import Fleet
        from pitr.fleet.tasks import Setup

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        stack.enter_context(_program(("fleet", "scheduler", address), "scheduling at", repository))
        self._pids = [
            stack.enter_context(
                _program(("worker", address, "--slots", "1"), "working for", repository, processor)
            )
            for processor in range(count)
        ]
        setup = Setup(repository, None, Path)
        self.fleet = stack.enter_context(Fleet(address, None, setup, alone=1, notify=print))

    def run(self, job: Callable[[], object]) -> tuple[float, float]:
        before = [_cpu_s(pid) for pid in self._pids]
        wall_s = measure.seconds(job)
        after = [_cpu_s(pid) for pid in self._pids]
        return wall_s, max(b - a for a, b in zip(before, after, strict=True))


@contextmanager
def _program(
    command: tuple[str, ...], ready: str, repository: Path, processor: int | None = None
) -> Iterator[int]:
    """Run pitr until the end of the block, on one processor if it is given; return its process id."""
    pinned = ["taskset", "-c", str(processor)] if processor is not None else []
    process = subprocess.Popen(
        [*pinned, sys.executable, "-m", "pitr", *command],
        env={**os.environ, "PITR_REPO": str(repository)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stderr is None or not any(ready in line for line in process.stderr):
            raise RuntimeError(f"pitr {' '.join(command)} ended")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and all that come from it."""
    import psutil

    process = psutil.Process(pid)
    used = 0.0
    for each in (process, *process.children(recursive=True)):
        times = each.cpu_times()
        used += times.user + times.system
    return used


def benchmark(size: Size) -> list[Result]:
    from pitr.fleet.backups import RepositoryOfFleet
    from pitr.fleet.tasks import Verification
    from pitr.fleet.verifications import verify_on
    from pitr.repository import Repository

    with measure.folder() as folder, ExitStack() as stack:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        repository = stack.enter_context(Repository.create(folder / "r"))
        backup, stream = chains.make_chain(repository, image, 0).newest
        image.unlink()
        workers = {"two": Workers(stack, folder / "r", 2), "one": Workers(stack, folder / "r", 1)}
        verification = Verification(backup.vm.id, None, "full", None, 4)
        of = RepositoryOfFleet(repository.id)
        jobs = {"verify": lambda fleet: verify_on(fleet, repository, of, verification, None, print)}
        found = []
        for name, job in jobs.items():
            cpu_s: dict[str, list[float]] = {"two": [], "one": []}

            def measured(which: str, job: Callable[..., object] = job, cpu_s=cpu_s) -> Callable[[], float]:
                def run() -> float:
                    at = workers[which]
                    wall, cpu = at.run(lambda: job(at.fleet))
                    cpu_s[which].append(cpu)
                    return wall

                return run

            walls = measure.in_turn(size.runs, {which: measured(which) for which in workers})
            title = f"{name} of one disk, {stream.data_bytes / 1e6:.0f} MB, on two workers and one"
            found += [
                measure.compared(title, walls, "two", "one", goal=GOAL),
                measure.compared(f"{title}: CPU of the busiest", cpu_s, "two", "one", goal=GOAL),
            ]
        return found
