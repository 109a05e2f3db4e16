# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare one disk on two workers of a fleet with the same on one worker. Each worker has a processor of its own.

`bench/run fleet_ranges`. On a machine that does other work, only the CPU seconds mean something: those of all workers,
halved for two.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import chains
import disks
import measure
from measure import Result, Size

if TYPE_CHECKING:
    from pitr.fleet.backups import RepositoryOfFleet
    from pitr.fleet.client import Fleet
    from pitr.repository import Repository

GOAL = 0.6


class Workers:
    """A scheduler with some workers, and a connection to it. `run` does a job and returns wall and CPU seconds."""

    def __init__(self, stack: ExitStack, repository: Path, count: int, slots: int = 1) -> None:
        from pitr.fleet.client import Fleet
        from pitr.fleet.tasks import Setup

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self.scheduler = stack.enter_context(
            program(("fleet", "scheduler", address), "scheduling at", repository)
        )
        self.pids = [
            stack.enter_context(
                program(("worker", address, "--slots", str(slots)), "working for", repository, processor)
            )
            for processor in range(count)
        ]
        self.setup = Setup(repository, None, Path)
        self.fleet = stack.enter_context(Fleet(address, None, self.setup, alone=1, notify=print))

    def run(self, job: Callable[[], object]) -> tuple[float, float]:
        before = sum(map(cpu_s, self.pids))
        wall_s = measure.seconds(job)
        return wall_s, (sum(map(cpu_s, self.pids)) - before) / len(self.pids)


@contextmanager
def program(
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


def cpu_s(pid: int) -> float:
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
    from pitr.repository import Repository

    with measure.folder() as folder, ExitStack() as stack:
        image = folder / "disk.raw"
        disks.real_disk(image, size.disk_bytes)
        repository = stack.enter_context(Repository.create(folder / "r"))
        stream = chains.make_chain(repository, image, 0).newest[1]
        image.unlink()
        workers = {"two": Workers(stack, folder / "r", 2), "one": Workers(stack, folder / "r", 1)}
        jobs = _Jobs(repository, RepositoryOfFleet(repository.id), folder)
        found = []
        for name, job in (("verify", jobs.verify), ("drill", jobs.drill), ("restore", jobs.restore)):
            cpu: dict[str, list[float]] = {"two": [], "one": []}

            def measured(
                which: str, job: Callable[[Fleet], object] = job, cpu: dict[str, list[float]] = cpu
            ) -> float:
                at = workers[which]
                wall_s, cpu_seconds = at.run(lambda: job(at.fleet))
                cpu[which].append(cpu_seconds)
                return wall_s

            walls = measure.in_turn(size.runs, {which: partial(measured, which) for which in workers})
            title = f"{name} of one disk, {stream.data_bytes / 1e6:.0f} MB, on two workers"
            found += [
                measure.compared(title, walls, "two", "one", goal=GOAL),
                measure.compared(f"{title}: CPU of each", cpu, "two", "one", goal=GOAL),
            ]
        return found


class _Jobs:
    """What the workers do: all with the first point of a repository."""

    def __init__(self, repository: Repository, of: RepositoryOfFleet, folder: Path) -> None:
        self._repository = repository
        self._of = of
        self._folder = folder
        (vm,) = repository.catalog.vms()
        self._backup = repository.catalog.points(vm.id)[0]

    def verify(self, fleet: Fleet) -> None:
        from pitr.fleet.tasks import Verification
        from pitr.fleet.verifications import verify_on

        job = Verification(self._backup.vm.id, None, "full", None, 4)
        assert verify_on(fleet, self._repository, self._of, job, None, print).ok

    def drill(self, fleet: Fleet) -> None:
        from pitr.fleet.points import Watched, drill_on
        from pitr.fleet.tasks import TrialRestore

        job = TrialRestore(self._backup.backup_id, None, True, 4)
        assert drill_on(Watched(fleet, self._of, 4, None, print), self._repository, job).ok

    def restore(self, fleet: Fleet) -> None:
        from pitr.fleet.points import Watched, restore_on
        from pitr.jobs.restore.choice import ToFiles
        from pitr.jobs.restore.selection import DiskSelection
        from pitr.jobs.restore.to_files import FilesTarget

        selection = DiskSelection(self._repository, self._backup, self._backup.streams)
        target = FilesTarget(ToFiles(str(self._folder / "restored.raw")), self._backup.streams)
        restore_on(Watched(fleet, self._of, 4, None, print), selection, target)
        (self._folder / "restored.raw").unlink()
