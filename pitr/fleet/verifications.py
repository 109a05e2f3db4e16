# SPDX-License-Identifier: GPL-2.0-or-later
"""A verification on several workers: each reads a share of the streams, and the results add up to one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Final

from pitr.fleet.client import Fleet
from pitr.fleet.placement import Wanted
from pitr.fleet.tasks import FleetTask, Verification
from pitr.jobs.backup.one_task import Bytes, told_to
from pitr.jobs.verify.stored_data import Verified
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, findings
from pitr.system.forked import Call

#: Each share reads all records, so many shares would cost more than they gain.
_MOST_SHARES: Final = 32


def verify_on(
    fleet: Fleet,
    repository: Repository,
    task: FleetTask,
    job: Verification,
    progress: Progress | None,
    notify: Notify,
) -> Verified:
    """Return the result of all workers together. Raises PitrError, Interrupted.

    A quick check, and one that can disprove known damage, is the work of one worker: it needs all streams at once.
    """
    shares = min(_MOST_SHARES, fleet.slots)
    if shares < 2 or job.level == "quick" or any(findings.found_in(repository.store, job.vm_id)):
        call = Call(told_to(progress, notify), lambda: False)
        done: Verified = fleet.run(replace(task, job=job), Wanted(), (), call)
        return done
    stop = threading.Event()
    sums = _Sums(shares, progress)

    def run(number: int) -> Verified:
        call = Call(told_to(sums.part(number), notify), stop.is_set)
        part: Verified = fleet.run(
            replace(task, job=replace(job, share=(number, shares))), Wanted(), (), call
        )
        return part

    with ThreadPoolExecutor(shares, thread_name_prefix="share") as pool:
        futures = [pool.submit(run, number) for number in range(shares)]
        try:
            return added_up([future.result() for future in futures])
        except BaseException:
            stop.set()
            raise


def added_up(parts: Sequence[Verified]) -> Verified:
    """Return one result for all streams. Each part has seen all records."""
    added = Verified(parts[0].level, points=max(part.points for part in parts))
    for counted in fields(Verified):
        if counted.name not in ("level", "points", "damage"):
            setattr(added, counted.name, sum(getattr(part, counted.name) for part in parts))
    added.damage = list(dict.fromkeys(damage for part in parts for damage in part.damage))
    return added


class _Sums:
    """Adds up the progress of the shares."""

    def __init__(self, shares: int, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._parts = [Bytes(0, 0)] * shares

    def part(self, number: int) -> Progress:
        """Return the progress callback of a share."""

        def progress(done: int, total: int) -> None:
            with self._lock:
                self._parts[number] = Bytes(done, total)
                if self._progress is not None:
                    self._progress(
                        sum(part.done for part in self._parts), sum(part.total for part in self._parts)
                    )

        return progress
