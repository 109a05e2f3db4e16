# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what a task of a fleet costs beside the same job alone, and the scheduler's memory: `bench/run fleet_tasks`.

The job computes the digest of a small blob. The caller runs four tasks at a time on one worker.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import measure
from fleet_ranges import Workers, cpu_s
from measure import Result, Size
from verify import generate

GOAL_S = 0.05
GOAL_BYTES = 500e6
#: The goal of the memory is for so many tasks.
_TASKS = 10_000


def benchmark(size: Size) -> list[Result]:
    import psutil

    from pitr.fleet.placement import Wanted
    from pitr.fleet.tasks import BlobRead, FleetTask, perform
    from pitr.repository import Repository
    from pitr.system.forked import Call

    tasks = 200 if size.quick else _TASKS
    with measure.folder() as folder, ExitStack() as stack:
        generate(folder / "r", 1)
        with Repository.open(folder / "r") as repository:
            (vm,) = repository.catalog.vms()
            backup = repository.catalog.points(vm.id)[0]
            repository_id = repository.id
        read = BlobRead("blob", backup.backup_id, backup.streams[0].stream_id, None, None, 1)
        task = FleetTask(read, repository_id)
        workers = Workers(stack, folder / "r", 1, slots=4)
        call = Call(lambda value: None, lambda: False)

        def alone(number: int) -> float:
            begun = time.perf_counter()
            perform(workers.setup, task, call)
            return time.perf_counter() - begun

        def on_fleet(number: int) -> float:
            begun = time.perf_counter()
            workers.fleet.run(task, Wanted(), (), call)
            return time.perf_counter() - begun

        pids = (workers.scheduler, *workers.pids)
        # The first tasks load modules and start children.
        for number in range(20):
            on_fleet(number)
        one_by_one = [on_fleet(number) for number in range(100)]
        here = [alone(number) for number in range(100)]
        scheduler = psutil.Process(workers.scheduler)
        memory = scheduler.memory_info().rss
        before = [cpu_s(pid) for pid in pids]
        own = time.process_time()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(on_fleet, range(tasks)))
        own = time.process_time() - own
        spent = [cpu_s(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
        grown = (scheduler.memory_info().rss - memory) * _TASKS / tasks
    over = measure.median(one_by_one) - measure.median(here)
    return [
        Result("a task beside the same job alone, wall", over, GOAL_S, "s", 1.0, "the goal"),
        Result("CPU of a task: caller", own / tasks, GOAL_S, "s"),
        Result("CPU of a task: scheduler", spent[0] / tasks, GOAL_S, "s"),
        Result("CPU of a task: worker", spent[1] / tasks, GOAL_S, "s"),
        Result(
            f"memory of the scheduler after {_TASKS} tasks, from {tasks}",
            (memory + grown) / 1e6,
            GOAL_BYTES / 1e6,
            "MB",
            1.0,
            "the goal",
        ),
    ]
