# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups in processes of this machine: one interpreter runs one thread of Python at a time, several run several.

There are no more processes than processors. Each one runs several backups in threads: a backup of a small VM mostly
waits for the engine, and a process of its own would cost it more than it gains (docs/scale.md).
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pitr.jobs.backup.one_task import BackupTask, MadePoint, carry_out_call, told_to
from pitr.ovirt.engine import Engine, EngineConfig
from pitr.reporting import Notify, Progress
from pitr.repository import canonical
from pitr.repository.location import Location
from pitr.system import forked, machine, rate_limit
from pitr.system.closing import Closes
from pitr.system.forked import Call, ChildDied, Children, Template

#: How often a backup starts whose process is killed. What the first leaves open on the engine, the second ends.
_STARTS: Final = 2


class Processes(Closes):
    """Runs backups in children of `template`. The children use the engine's login of this process."""

    is_remote = False

    def __init__(self, template: Template, jobs: int, location: Location, engine: Engine) -> None:
        self._children = Children(template, min(jobs, machine.processors()))
        self._location = location
        self._engine = engine

    def back_up(
        self, task: BackupTask, progress: Progress | None, notify: Notify, stopped: Callable[[], bool]
    ) -> MadePoint:
        """Carry out the task in a child. Raises PitrError; ChildDied if the child was killed again and again."""
        told = told_to(progress, notify)
        for last in (False,) * (_STARTS - 1) + (True,):
            try:
                made: MadePoint = self._children.call(
                    _back_up,
                    self._location,
                    self._engine.config,
                    self._engine.token(),
                    task,
                    told=told,
                    stopped=stopped,
                )
                return made
            except ChildDied:
                if last or stopped():
                    raise
                notify("the process of this backup was killed: pitr starts the backup again")
        raise AssertionError("the last start returns or raises")

    def close(self) -> None:
        """Let the children end."""
        self._children.close()


@contextmanager
def template_for(jobs: int) -> Iterator[Template | None]:
    """Prepare children for so many backups at the same time. Call it before anything starts a thread.

    Return None for one backup, on one processor, and in a program that has threads: these run backups in threads, too.
    """
    if jobs == 1 or machine.processors() == 1 or not forked.can_fork():
        yield None
        return
    rate_limit.share()
    _warm_up()
    with Template() as template:
        yield template


def _warm_up() -> None:
    """Load and compute once what each child would, and let them share the memory of it."""
    import encodings.idna  # noqa: F401, PLC0415

    import pitr.repository.committing  # noqa: F401, PLC0415

    canonical.warm_up()
    gc.collect()
    gc.freeze()


@contextmanager
def processes_of(
    template: Template | None, jobs: int, location: Location, engine: Engine
) -> Iterator[Processes | None]:
    """Return the processes that `template` can start; None without one."""
    if template is None:
        yield None
        return
    with Processes(template, jobs, location, engine) as processes:
        yield processes


#: The engine of this child, with its address and login.
_engines: dict[EngineConfig, Engine] = {}
_lock = threading.Lock()


def _back_up(location: Location, config: EngineConfig, token: str, task: BackupTask, call: Call) -> MadePoint:
    """Carry out a task in a child."""
    with _lock:
        engine = _engines.get(config)
        if engine is None:
            engine = _engines[config] = Engine(config, token=token)
            forked.at_end(engine.close)
    return carry_out_call(location, engine, task, call)
