# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of many VMs: chosen by name, by tag or all of them; some at a time; a failure stops only its own VM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from pitr.errors import Interrupted, NothingToBackUp, PitrError, UsageError
from pitr.jobs.backup.one_vm import BackupOptions, Notify, back_up
from pitr.model import Backup
from pitr.ovirt.engine import VM, Engine, list_vms, vms_with_tag
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.text import printable

#: The main thread looks for signals at least this often.
_WAKE_S = 0.5

ProgressOf = Callable[[str], Progress | None]
"""Gives the progress callback for the VM with this name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A VM to back up: what it is looked up by, and its name for people."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one VM: a new point, or the failure; `skipped` when there was nothing that could be taken."""

    vm: Chosen
    backup: Backup | None
    error: PitrError | None
    duration_s: float

    @property
    def skipped(self) -> bool:
        return isinstance(self.error, NothingToBackUp)

    @property
    def failed(self) -> bool:
        return self.error is not None and not self.skipped


def choose(engine: Engine, named: Sequence[Chosen], tags: Sequence[str], *, every: bool) -> list[Chosen]:
    """The VMs that are named, those with any of the tags, or all that the user may see; each once.

    What is named is looked up when its turn comes: one that does not exist is one failure. Raises UsageError for a
    tag that no VM has, EngineError.
    """
    chosen = {vm.key: vm for vm in named}
    for tag in tags:
        found = vms_with_tag(engine, tag)
        if not found:
            raise UsageError(f"no VM has the tag {tag!r}", "Tags are set on the engine, at each VM.")
        for vm in found:
            _add(chosen, vm)
    if every:
        found = list_vms(engine)
        if not found:
            raise UsageError("the user sees no VMs on the engine", "It needs a permission on them.")
        for vm in found:
            _add(chosen, vm)
    return list(chosen.values())


def _add(chosen: dict[str, Chosen], vm: VM) -> None:
    if vm.id not in chosen and vm.name not in chosen:
        chosen[vm.id] = Chosen(vm.id, vm.name)


def back_up_fleet(
    path: Path,
    engine: Engine,
    vms: Sequence[Chosen],
    options: BackupOptions,
    *,
    jobs: int,
    progress_of: ProgressOf,
    notify: Notify,
) -> list[Outcome]:
    """Back up `vms` into the repository at `path`, `jobs` at a time; return what became of each, in their order.

    `options.workers` are shared by those that run at the same time. An interrupt, raised in the calling thread,
    stops all of them in order before it comes out: a backup that waits for the engine stops when its data flows.
    """
    share = replace(options, workers=max(1, options.workers // max(1, min(jobs, len(vms)))))
    if jobs == 1 or len(vms) == 1:
        return [_one(path, engine, vm, share, progress_of(vm.name), notify) for vm in vms]
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="vm") as pool:
        tasks = [
            pool.submit(
                _one, path, engine, vm, share, _stopping(stop, progress_of(vm.name)), _naming(vm, notify)
            )
            for vm in vms
        ]
        try:
            _wait(tasks)
        except BaseException:
            stop.set()
            for task in tasks:
                task.cancel()
            raise
    return [task.result() for task in tasks]


def _wait(tasks: Sequence[Future[Outcome]]) -> None:
    left = set(tasks)
    while left:
        done, left = wait(left, timeout=_WAKE_S, return_when=FIRST_COMPLETED)
        for task in done:
            task.result()


def _one(
    path: Path,
    engine: Engine,
    vm: Chosen,
    options: BackupOptions,
    progress: Progress | None,
    notify: Notify,
) -> Outcome:
    started_at = time.monotonic()
    backup: Backup | None = None
    failure: PitrError | None = None
    try:
        # A repository of its own: an open catalog belongs to one thread.
        with Repository.open(path) as repository:
            backup = back_up(repository, engine, vm.key, options, progress=progress, notify=notify)
    except (Interrupted, _Stopped):
        raise
    except PitrError as error:
        failure = error
    return Outcome(vm, backup, failure, time.monotonic() - started_at)


class _Stopped(PitrError):
    """An interrupt has come: this backup is given up."""


def _stopping(stop: threading.Event, progress: Progress | None) -> Progress:
    """A progress callback that ends the backup which calls it, once `stop` is set."""

    def tell(done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped("stopped")
        if progress is not None:
            progress(done, total)

    return tell


def _naming(vm: Chosen, notify: Notify) -> Notify:
    """Tell which VM a message is about, when several are at work."""
    return lambda line: notify(line if printable(vm.name) in line else f"{printable(vm.name)}: {line}")
