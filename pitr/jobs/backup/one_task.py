# SPDX-License-Identifier: GPL-2.0-or-later
"""The backup of one VM as a task: values that another process, here or on another host, can carry out."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

from pitr.errors import Interrupted, RepositoryError
from pitr.jobs import unusual
from pitr.jobs.backup.one_vm import back_up
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of
from pitr.model import Backup
from pitr.ovirt.engine import Engine
from pitr.reporting import Notify, Progress, about_vm
from pitr.repository import Repository
from pitr.repository.location import Location
from pitr.system.forked import Call
from pitr.text import printable

#: A process tells its progress at most this often.
_TELL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class BackupTask:
    """The backup of the VM with this key (a name or id). `name` is its name, to show."""

    key: str
    name: str
    options: BackupOptions


@dataclass(frozen=True, slots=True)
class MadePoint:
    """A new point with the facts about it."""

    backup: Backup
    facts: PointFacts


@dataclass(frozen=True, slots=True)
class Line:
    """A line for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Bytes:
    """Progress in bytes."""

    done: int
    total: int


class Elsewhere(Protocol):
    """Another place for backups than this process. Several threads use it."""

    #: Whether other machines do it: then a single VM goes there, too, and each backup has all workers (threads).
    is_remote: bool

    def back_up(
        self, task: BackupTask, progress: Progress | None, notify: Notify, stopped: Callable[[], bool]
    ) -> MadePoint:
        """Carry out the task there, until `stopped` returns True. Raises PitrError."""


@dataclass(frozen=True, slots=True)
class PlaceOfBackups:
    """Where backups run, and how many at the same time."""

    elsewhere: Elsewhere | None
    jobs: int


def carry_out(
    repository: Repository, engine: Engine, task: BackupTask, progress: Progress | None, notify: Notify
) -> MadePoint:
    """Back up the VM and return the point. Raises what `back_up` raises."""
    backup = back_up(repository, engine, task.key, task.options, progress=progress, notify=notify)
    return MadePoint(backup, _facts(repository, backup, notify))


def carry_out_call(location: Location, engine: Engine, task: BackupTask, call: Call) -> MadePoint:
    """Do the same in another process, whose `call` connects it with the caller. Raises Interrupted once it is stopped.

    The backup stops while its data flows. Once it is complete, nothing hides its point.
    """
    progress, notify = Teller(call).callbacks()
    with about_vm(task.name), Repository.open(location) as repository:
        return carry_out(repository, engine, task, progress, notify)


class Teller:
    """Sends lines, and progress from time to time; ends the work of a stopped call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = Lock()
        self._last = 0.0

    def callbacks(self) -> tuple[Progress, Notify]:
        """Return the callbacks for a job."""
        return self._progress, lambda line: self._call.tell(Line(line))

    def _progress(self, done: int, total: int) -> None:
        if self._call.stopped():
            raise Interrupted(signal.SIGTERM)
        now = time.monotonic()
        with self._lock:
            if done < total and now - self._last < _TELL_S:
                return
            self._last = now
        self._call.tell(Bytes(done, total))


def told_to(progress: Progress | None, notify: Notify) -> Callable[[object], None]:
    """Return what passes the values of a `Teller` on to these callbacks."""

    def told(value: object) -> None:
        match value:
            case Line(text):
                notify(text)
            case Bytes(done, total) if progress is not None:
                progress(done, total)

    return told


def _facts(repository: Repository, backup: Backup, notify: Notify) -> PointFacts:
    """Return the facts about a new point; `notify` gets a line if it is unusual."""
    try:
        facts = facts_of(repository, backup)
    except RepositoryError:
        # The point is complete all the same.
        return NO_FACTS
    if facts.unusual:
        notify(f"the new point of VM {printable(backup.vm.name)} is unusual: {unusual.words(facts.unusual)}")
    return facts
