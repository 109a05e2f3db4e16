# SPDX-License-Identifier: GPL-2.0-or-later
"""Several jobs at the same time on the workers of a fleet, for one command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

from pitr.errors import NoFittingIdentity
from pitr.fleet.backups import RepositoryOfFleet
from pitr.fleet.client import Fleet
from pitr.fleet.placement import Wanted
from pitr.fleet.tasks import FleetTask, Job
from pitr.jobs.backup.one_task import Bytes, Line
from pitr.reporting import Notify, Progress
from pitr.system.forked import Call

#: Each job at the same time takes a thread of the caller.
_MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One of several jobs; `bytes` are its part of the progress, as far as it is known. A `hidden` one shows none."""

    job: Job
    bytes: int = 0
    hidden: bool = False


def places_of(fleet: Fleet) -> int:
    """Return how many jobs of one command run at the same time."""
    return max(1, min(_MOST, fleet.slots))


def run_together(
    fleet: Fleet, of: RepositoryOfFleet, parts: Sequence[Part], progress: Progress | None, notify: Notify
) -> list[Any]:
    """Return the results of the jobs for the repository `of`, in their order.

    They begin in this order, as workers are free. The first error stops the others. A job whose worker lacks the
    identity for it is done by this process. Raises PitrError, Interrupted.
    """
    stop = threading.Event()
    sums = _Sums([part.bytes for part in parts], progress)

    def run(number: int) -> Any:
        part = parts[number]
        task = FleetTask(part.job, of.id, of.wait_lock_s)
        call = Call(sums.told(number, notify, hidden=part.hidden), stop.is_set)
        try:
            return fleet.run(task, Wanted(), (), call)
        except NoFittingIdentity:
            return fleet.here(task, call)

    with ThreadPoolExecutor(max(1, min(len(parts), places_of(fleet))), thread_name_prefix="part") as pool:
        futures = [pool.submit(run, number) for number in range(len(parts))]
        try:
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in ended:
                if (error := future.exception()) is not None:
                    raise error
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


class _Sums:
    """Adds up the progress of the jobs."""

    def __init__(self, sizes: Sequence[int], progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._parts = [Bytes(0, size) for size in sizes]

    def told(self, number: int, notify: Notify, *, hidden: bool) -> Callable[[object], None]:
        """Return what passes the values of a job on."""

        def told(value: object) -> None:
            match value:
                case Line(text):
                    notify(text)
                case Bytes() if not hidden:
                    self._add(number, value)

        return told

    def _add(self, number: int, value: Bytes) -> None:
        with self._lock:
            self._parts[number] = value
            if self._progress is not None:
                self._progress(
                    sum(part.done for part in self._parts), sum(part.total for part in self._parts)
                )
