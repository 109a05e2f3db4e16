# SPDX-License-Identifier: GPL-2.0-or-later
"""The caller of a fleet: places each task on a worker, watches it, and starts it again elsewhere if the worker dies.

No task waits for ever: what no worker takes within a bound, the caller does itself.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from pitr.errors import BusyError, EngineBusy, Interrupted, PitrError
from pitr.fleet import tasks
from pitr.fleet.caps import Cap, Caps
from pitr.fleet.placement import Wanted, WorkerPlace, places, tiers
from pitr.fleet.tasks import FleetTask, Setup
from pitr.fleet.worker import run_task
from pitr.jobs.backup.one_task import Bytes, Line
from pitr.reporting import Notify
from pitr.system.closing import Closes
from pitr.system.forked import Call, ChildDied
from pitr.text import printable

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.security import Security

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a caller waits, in seconds.

    `connect`: for the scheduler. `home`: for a free slot on the VM's host. `slot`: for any slot. `start`: for a worker
    to begin a task. `stop`: for a worker to end a task in order. `busy`: for a VM that a dead worker leaves busy.
    """

    connect: float = 10.0
    home: float = 60.0
    slot: float = 600.0
    start: float = 30.0
    stop: float = 120.0
    busy: float = 300.0


#: The list of workers is at most so old.
_FRESH_S: Final = 0.5
_POLL_S: Final = 0.2
#: The longest pause before a task tries again to get its slots.
_PAUSE_S: Final = 1.0


class _Lost(Exception):
    """The worker or the scheduler went away, or the worker did not begin the task."""


@dataclass(slots=True)
class _Submitted:
    """A task on a worker, as its thread watches it."""

    worker: WorkerPlace
    future: Future[Any]
    events: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    began: float = field(default_factory=time.monotonic)
    is_started: bool = False
    has_ended: bool = False


class Fleet(Closes):
    """A connection to a scheduler. Any number of threads run tasks; `alone` of them at a time in this process.

    Raises PitrError if the scheduler does not answer.
    """

    def __init__(
        self,
        address: str,
        security: Security | None,
        setup: Setup,
        *,
        alone: int,
        notify: Notify,
        bounds: Bounds = Bounds(),
    ) -> None:
        from distributed import Client  # noqa: PLC0415 - an extra

        # Dask would tell of each lost connection at length. What matters, pitr tells.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self.address = address
        self._setup = setup
        self._notify = notify
        self._bounds = bounds
        self._alone = threading.Semaphore(alone)
        self._lock = threading.Lock()
        self._read_at = -1.0
        self._workers: list[WorkerPlace] = []
        try:
            self._client: Client = Client(
                address, security=security, timeout=bounds.connect, set_as_default=False
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise PitrError(
                f"the scheduler at {address} does not answer: {error}",
                "Start it with 'pitr fleet scheduler', or leave out --scheduler.",
            ) from error
        self._caps = Caps(self._client)
        #: One topic for all tasks: the scheduler keeps the last events of each.
        self._topic = f"pitr-{uuid.uuid4()}"
        self._events: dict[str, SimpleQueue[Any]] = {}
        self._client.subscribe_topic(self._topic, self._heard)

    @property
    def dashboard(self) -> str | None:
        """The address of the scheduler's page for browsers; None if it has none."""
        info: dict[str, Any] = self._client.scheduler_info(n_workers=0)
        return self._client.dashboard_link if "dashboard" in info.get("services", {}) else None

    @property
    def slots(self) -> int:
        """How many tasks the workers take at the same time."""
        return sum(worker.slots for worker in self.workers())

    def workers(self) -> list[WorkerPlace]:
        """Return pitr's workers, not older than a moment; none if the scheduler does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at > _FRESH_S:
                try:
                    self._workers = places(self._client.scheduler_info(n_workers=-1)["workers"])
                except Exception as error:  # noqa: BLE001 - Dask raises anything when the scheduler is gone
                    _log.info("the scheduler does not answer: %s", error)
                    self._workers = []
                self._read_at = time.monotonic()
            return self._workers

    def run(self, task: FleetTask, wanted: Wanted, caps: Sequence[Cap], call: Call) -> Any:
        """Carry out the task on a worker, or here. Raises PitrError; Interrupted once the call is stopped."""
        excluded: set[str] = set()
        is_again = False
        busy_until = 0.0
        while True:
            try:
                return self._once(task, wanted, caps, call, excluded)
            except _Lost as lost:
                self._notify(f"{_subject(task)}: {lost}; pitr starts the task again")
                is_again = True
                busy_until = time.monotonic() + self._bounds.busy
            except (BusyError, EngineBusy):
                # The first run may still end what it had begun.
                if not is_again or time.monotonic() > busy_until:
                    raise
                _pause(_PAUSE_S, call)

    def _once(
        self, task: FleetTask, wanted: Wanted, caps: Sequence[Cap], call: Call, excluded: set[str]
    ) -> Any:
        with ExitStack() as held:
            worker = self._admitted(wanted, caps, call, excluded, held)
            if worker is None:
                return self.here(task, call)
            return self._on(worker, task, call, excluded)

    # Placement

    def _admitted(
        self,
        wanted: Wanted,
        caps: Sequence[Cap],
        call: Call,
        excluded: set[str],
        held: ExitStack,
    ) -> WorkerPlace | None:
        """Wait for a slot and all limits, held until `held` is closed. Return the worker; None for this process."""
        began = time.monotonic()
        pause = 0.01
        while True:
            ranks = tiers(self.workers(), wanted, excluded)
            waited = time.monotonic() - began
            if not ranks or waited > self._bounds.slot:
                return None
            for rank in ranks if waited > self._bounds.home else ranks[:1]:
                for worker in random.sample(rank, len(rank)):
                    needed = [*caps, Cap(f"slots of {worker.address}", worker.slots)]
                    if self._take(needed):
                        held.callback(self._caps.give_back, needed)
                        return worker
            _pause(pause, call)
            pause = min(_PAUSE_S, pause * 2)

    def _take(self, caps: Sequence[Cap]) -> bool:
        try:
            return self._caps.take(caps)
        except Exception as error:  # noqa: BLE001 - Dask raises anything when the scheduler is gone
            _log.info("the scheduler does not answer: %s", error)
            return False

    def here(self, task: FleetTask, call: Call) -> Any:
        """Carry out the task in this process. Raises PitrError, Interrupted."""
        while not self._alone.acquire(timeout=_POLL_S):
            _check(call)
        try:
            self._notify(f"{_subject(task)}: no worker takes it; this machine does it")
            return tasks.perform(self._setup, task, call)
        finally:
            self._alone.release()

    # A worker's task

    def _on(self, worker: WorkerPlace, task: FleetTask, call: Call, excluded: set[str]) -> Any:
        """Carry out the task on the worker. Raises _Lost, after which the worker is excluded."""
        try:
            return self._watched(worker, task, call)
        except _Lost:
            excluded.add(worker.address)
            raise

    def _watched(self, worker: WorkerPlace, task: FleetTask, call: Call) -> Any:
        key = f"pitr-{uuid.uuid4()}"
        events: SimpleQueue[Any] = SimpleQueue()
        self._events[key] = events
        try:
            return self._submitted(worker, task, call, key, events)
        finally:
            del self._events[key]

    def _heard(self, event: tuple[float, Any]) -> None:
        """Pass what a worker says on to the thread of its task. Dask's thread calls this."""
        match event[1]:
            case {"task": str(key), **said}:
                events = self._events.get(key)
                if events is not None:
                    events.put(said)

    def _submitted(
        self, worker: WorkerPlace, task: FleetTask, call: Call, key: str, events: SimpleQueue[Any]
    ) -> Any:
        try:
            future = self._client.submit(
                run_task,
                task,
                self._topic,
                key=key,
                workers=[worker.address],
                resources={"slots": 1},
                allow_other_workers=False,
                pure=False,
            )
        except Exception as error:
            raise _Lost(f"the scheduler does not answer: {error}") from error
        future.add_done_callback(lambda _: events.put("done"))
        submitted = _Submitted(worker, future, events)
        try:
            return self._answer(submitted, call)
        except Interrupted:
            self._stop(submitted)
            raise
        finally:
            with suppress(Exception):
                future.release()

    def _answer(self, submitted: _Submitted, call: Call) -> Any:
        future = submitted.future
        while True:
            heard = self._tell_next(submitted, call)
            if future.done() and submitted.events.empty():
                return self._result(future)
            _check(call)
            if not heard:
                self._check_alive(submitted)

    def _tell_next(self, submitted: _Submitted, call: Call) -> bool:
        """Wait a moment for a line or for progress of the task, and pass it on. Return whether there was one."""
        try:
            event = submitted.events.get(timeout=_POLL_S)
        except Empty:
            return False
        match event:
            case {"started": _}:
                submitted.is_started = True
            case {"ended": _}:
                submitted.has_ended = True
            case {"line": str(line)}:
                call.tell(Line(line))
            case {"done": int(done), "total": int(total)}:
                call.tell(Bytes(done, total))
        return True

    def _check_alive(self, submitted: _Submitted) -> None:
        """Raise _Lost if nobody will answer any more."""
        worker = submitted.worker
        if submitted.future.done():
            return
        if all(known.address != worker.address for known in self.workers()):
            self._cancel(submitted)
            raise _Lost(f"the worker at {worker.address} is gone")
        if not submitted.is_started and time.monotonic() - submitted.began > self._bounds.start:
            self._cancel(submitted)
            raise _Lost(f"the worker at {worker.address} does not answer")

    def _stop(self, submitted: _Submitted) -> None:
        """Cancel the task and wait until the worker has ended it in order."""
        self._cancel(submitted)
        until = time.monotonic() + self._bounds.stop
        silent = Call(lambda value: None, lambda: False)
        while submitted.is_started and not submitted.has_ended and time.monotonic() < until:
            self._tell_next(submitted, silent)
            if all(known.address != submitted.worker.address for known in self.workers()):
                return

    def _cancel(self, submitted: _Submitted) -> None:
        with suppress(Exception):
            self._client.cancel([submitted.future], force=True)

    def _result(self, future: Future[Any]) -> Any:
        from distributed import CancelledError  # noqa: PLC0415 - an extra

        try:
            if future.status == "error":
                error = future.exception(timeout=self._bounds.connect)
                raise error if isinstance(error, BaseException) else PitrError(f"the task failed: {error}")
            return future.result(timeout=self._bounds.connect)
        except Interrupted:
            raise _Lost("the worker is stopping") from None
        except ChildDied as error:
            raise _Lost(error.message) from error
        except PitrError:
            raise
        except (CancelledError, TimeoutError, OSError) as error:
            raise _Lost(f"the scheduler or the worker is gone ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the connection. Workers stop tasks that this caller still waits for."""
        with suppress(Exception):
            self._client.close(timeout=5)
        tasks.close_engines()


def _subject(task: FleetTask) -> str:
    name = getattr(task.job, "name", None)
    return printable(name) if name else type(task.job).__name__


def _check(call: Call) -> None:
    if call.stopped():
        raise Interrupted(signal.SIGTERM)


def _pause(seconds: float, call: Call) -> None:
    until = time.monotonic() + seconds * random.uniform(0.5, 1.0)  # noqa: S311 - callers do not try in step
    while (left := until - time.monotonic()) > 0:
        _check(call)
        time.sleep(min(left, _POLL_S))
