# SPDX-License-Identifier: GPL-2.0-or-later
"""Back up many VMs, several at a time. A failure stops only the backup of its own VM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from pitr.errors import Interrupted, NothingToBackUp, PitrError, UsageError
from pitr.jobs.backup.one_vm import back_up
from pitr.jobs.backup.options import BackupOptions
from pitr.model import Backup
from pitr.ovirt.engine import VM, Engine, list_vms, vms_with_tag
from pitr.reporting import Notify, Progress
from pitr.repository import Repository
from pitr.text import printable

#: The main thread checks for signals at least this often.
_WAKE_S = 0.5

ProgressOf = Callable[[str], Progress | None]
"""Returns the progress callback for the VM with this name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A VM to back up: `key`, a name or id to find it by, and `name`, to show."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for one VM: a new point or an error. `skipped`: the VM has no disk that can be backed up."""

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
    """Return the `named` VMs, those with any of the tags, and with `every` all that the user may see; each once.

    A named VM that does not exist fails later, as one VM. Raises UsageError for a tag without VMs, EngineError.
    """
    chosen = {vm.key: vm for vm in named}
    for tag in tags:
        tagged = vms_with_tag(engine, tag)
        if not tagged:
            raise UsageError(f"no VM has the tag {tag!r}", "Set the tag on VMs in the engine.")
        for vm in tagged:
            _add(chosen, vm)
    if every:
        visible = list_vms(engine)
        if not visible:
            raise UsageError("the user sees no VMs on the engine", "Give the user a permission on VMs.")
        for vm in visible:
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
    """Back up `vms` into the repository at `path`, `jobs` at a time; return the outcomes in the order of `vms`.

    Backups that run at the same time share `options.workers`. An interrupt is raised in the calling thread, after all
    backups have stopped. A backup that waits for the engine stops when its data flows.
    """
    share = replace(options, workers=max(1, options.workers // max(1, min(jobs, len(vms)))))
    if jobs == 1 or len(vms) == 1:
        return [_back_up(path, engine, vm, share, progress_of(vm.name), notify) for vm in vms]
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="vm") as pool:
        tasks = [
            pool.submit(
                _back_up, path, engine, vm, share, _stopping(stop, progress_of(vm.name)), _naming(vm, notify)
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


def _back_up(
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
        # Each thread opens the repository itself: SQLite connections belong to one thread.
        with Repository.open(path) as repository:
            backup = back_up(repository, engine, vm.key, options, progress=progress, notify=notify)
    except (Interrupted, _Stopped):
        raise
    except PitrError as error:
        failure = error
    return Outcome(vm, backup, failure, time.monotonic() - started_at)


class _Stopped(PitrError):
    """An interrupt stops this backup."""


def _stopping(stop: threading.Event, progress: Progress | None) -> Progress:
    """Return a progress callback that stops its backup once `stop` is set."""

    def report(done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped("stopped")
        if progress is not None:
            progress(done, total)

    return report


def _naming(vm: Chosen, notify: Notify) -> Notify:
    """Return a callback that puts the VM's name before each line."""
    return lambda line: notify(line if printable(vm.name) in line else f"{printable(vm.name)}: {line}")
