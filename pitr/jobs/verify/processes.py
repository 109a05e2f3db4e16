# SPDX-License-Identifier: GPL-2.0-or-later
"""Quick checks in processes of this machine: one interpreter runs one thread of Python at a time, several run several.

A quick check of many points is mostly Python. Each process checks one VM after the other and only reads: this process
holds the locks, adds up what they found, and stores it.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import Final

from pitr.errors import Interrupted
from pitr.jobs.verify.ahead import read_ahead
from pitr.jobs.verify.stored_data import check_vm
from pitr.jobs.verify.verified import CheckVMs, ListedVM, VMChecked
from pitr.repository import Repository, canonical
from pitr.repository.catalog import overview
from pitr.repository.location import Location
from pitr.system import forked, machine
from pitr.system.forked import Call, ChildDied, Children, Template

#: With fewer points, processes would cost more than they gain.
_MANY_POINTS: Final = 1000
#: More processes wait for the store.
_MOST: Final = 8


@contextmanager
def template_for_checks(*, quick: bool) -> Iterator[Template | None]:
    """Prepare processes for a quick check. Call it before anything starts a thread.

    Return None for other checks, on one processor, and in a program that has threads: these check in this process.
    """
    if not quick or machine.processors() == 1 or not forked.can_fork():
        yield None
        return
    # Load once what each process needs, and let them share the memory of it.
    canonical.warm_up()
    gc.collect()
    gc.freeze()
    with Template() as template:
        yield template


@contextmanager
def checks_elsewhere(template: Template | None, repository: Repository) -> Iterator[CheckVMs | None]:
    """Return what checks VMs in processes of the template; None if this process should check them.

    A sealed repository is checked here, because another process would ask for its passphrase again.
    """
    if template is None or repository.keyring is not None:
        yield None
        return
    if sum(overview.point_counts(repository.catalog).values()) < _MANY_POINTS:
        yield None
        return
    processes = min(machine.processors(), _MOST)
    with Children(template, processes) as children:
        yield _checks(children, processes, repository.location)


def _checks(children: Children, processes: int, location: Location) -> CheckVMs:
    def check(
        vms: Iterable[ListedVM], watched: Set[str | None]
    ) -> Iterator[tuple[ListedVM, VMChecked | None]]:
        stop = threading.Event()

        def in_child(vm: ListedVM) -> tuple[ListedVM, VMChecked | None]:
            try:
                checked: VMChecked = children.call(
                    _check, location, vm, watched, told=_ignored, stopped=stop.is_set
                )
            except ChildDied:
                return vm, None
            return vm, checked

        yield from read_ahead(in_child, vms, processes, stop=stop.set)

    return check


def _ignored(told: object) -> None:
    """Take no progress from a child: what it returns is progress enough."""


#: The repository of this child.
_repositories: dict[Location, Repository] = {}
_lock = threading.Lock()


def _check(location: Location, vm: ListedVM, watched: Set[str | None], call: Call) -> VMChecked:
    """Check a VM in a child. Raises Interrupted once the call is stopped."""
    with _lock:
        repository = _repositories.get(location)
        if repository is None:
            repository = _repositories[location] = Repository.open(location)
            forked.at_end(repository.close)
    return check_vm(repository, vm, watched, _stopping(call))


def _stopping(call: Call) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if call.stopped():
            raise Interrupted(signal.SIGTERM)

    return progress
