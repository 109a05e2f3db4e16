# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker: takes tasks of a Dask scheduler and lets children carry them out, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pitr.errors import PitrError
from pitr.fleet import tasks
from pitr.fleet.placement import WorkerPlace
from pitr.fleet.tasks import FleetTask, Setup
from pitr.jobs.backup.one_task import Bytes, Line
from pitr.reporting import Notify
from pitr.repository import Repository
from pitr.system import forked, machine
from pitr.system.forked import Call, Children, Template

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.security import Security

_log = logging.getLogger(__name__)

#: The pause before the worker looks for a scheduler again.
_AGAIN_S: Final = 2.0
#: How often a stopping worker looks whether its tasks have ended.
_POLL_S: Final = 0.05


@dataclass(slots=True)
class Carrier:
    """What carries out the tasks of this process's Dask worker."""

    call: Callable[..., Any]
    stopping: threading.Event = field(default_factory=threading.Event)
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


#: The carrier of this process; set before its Dask worker starts.
_carrier: Carrier | None = None
#: What this process takes from its settings; its children have a copy.
_setup: Setup | None = None


def serve(
    setup: Setup, place: WorkerPlace, security: Security | None, scheduler: str, notify: Notify
) -> None:
    """Work for the scheduler at this address until a signal. Call it in the main thread of a process with one thread.

    If the scheduler is lost, the tasks stop in order, and the worker looks for it again. Raises PitrError.
    """
    global _carrier, _setup  # noqa: PLW0603 - one worker in a process
    if not forked.can_fork():
        raise PitrError("a worker needs a process of its own", "Run 'pitr worker' as a program.")
    _setup = setup
    with (
        Template() as template,
        Children(template, min(place.slots, machine.processors())) as children,
    ):
        # Wrong settings are reported now, not by the first task. A library of a store can start threads: in a child.
        children.call(_check, told=lambda value: None, stopped=lambda: False)
        _carrier = Carrier(children.call)
        # The loop handles the signals from here on.
        asyncio.run(_until_signal(_carrier, place, security, scheduler, notify))


async def _until_signal(
    carrier: Carrier, place: WorkerPlace, security: Security | None, scheduler: str, notify: Notify
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, ended.set)
    while not ended.is_set():
        await _connected(carrier, place, security, scheduler, notify, ended)
        if not ended.is_set():
            notify(f"the scheduler at {scheduler} is gone: the tasks stop, and pitr looks for it again")
            await _stop(carrier)
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _AGAIN_S)


async def _connected(
    carrier: Carrier,
    place: WorkerPlace,
    security: Security | None,
    scheduler: str,
    notify: Notify,
    ended: asyncio.Event,
) -> None:
    """Be a worker of the scheduler until `ended`, or until the scheduler is gone."""
    from distributed import Worker  # noqa: PLC0415 - an extra

    worker: Worker = Worker(
        scheduler,
        nthreads=place.slots,
        resources=place.resources,
        security=security,
        memory_limit=0,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1" if scheduler.startswith("tcp:") else None,
    )
    starting = asyncio.ensure_future(_start(worker))
    ending = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done() or not starting.result():
            return
        carrier.stopping.clear()
        notify(f"working for {scheduler} with {place.slots} slots as {worker.address}")
        closed = asyncio.ensure_future(worker.finished())
        await asyncio.wait([closed, ending], return_when=asyncio.FIRST_COMPLETED)
        if ended.is_set():
            notify("stopping: the tasks end in order")
            await _stop(carrier)
    finally:
        for future in (starting, ending):
            future.cancel()
        with suppress(Exception):
            await worker.close(timeout=5, reason="pitr worker ends")


async def _start(worker: Worker) -> bool:
    try:
        await worker
    except (OSError, TimeoutError, RuntimeError, ValueError) as error:
        _log.info("cannot register with the scheduler: %s", error)
        return False
    return True


async def _stop(carrier: Carrier) -> None:
    """Stop all tasks, and wait for them: they leave nothing open on the engine."""
    carrier.stopping.set()
    while carrier.running:
        await asyncio.sleep(_POLL_S)
    # So that the answers are sent.
    await asyncio.sleep(_POLL_S)


def run_task(task: FleetTask, topic: str) -> Any:
    """Carry out a task: the function that Dask calls in a thread of the worker. Lines and progress go to `topic`."""
    from distributed import get_worker  # noqa: PLC0415 - an extra

    worker = get_worker()
    carrier = _carrier
    if carrier is None:
        raise PitrError("this worker is none of pitr's", "Start workers with 'pitr worker ADDRESS'.")
    key = worker.get_current_task()

    def say(what: dict[str, Any]) -> None:
        worker.log_event(topic, {"task": key, **what})

    def told(value: object) -> None:
        match value:
            case Line(text):
                say({"line": text})
            case Bytes(done, total):
                say({"done": done, "total": total})

    with carrier.lock:
        carrier.running += 1
    try:
        say({"started": worker.address})
        return carrier.call(
            _in_child,
            task,
            told=told,
            stopped=lambda: carrier.stopping.is_set() or _is_cancelled(worker, key),
        )
    finally:
        with carrier.lock:
            carrier.running -= 1
        say({"ended": worker.address})


def _is_cancelled(worker: Worker, key: Any) -> bool:
    """Return whether nobody waits for the task any more: its caller has cancelled it, or is gone."""
    state = worker.state.tasks.get(key)
    return state is None or state.state == "cancelled"


def _in_child(task: FleetTask, call: Call) -> Any:
    if _setup is None:
        raise PitrError("the worker has no settings")
    forked.at_end(tasks.close_engines)
    return tasks.perform(_setup, task, call)


def _check(call: Call) -> None:
    if _setup is not None and _setup.repository is not None:
        with Repository.open(_setup.repository):
            pass
