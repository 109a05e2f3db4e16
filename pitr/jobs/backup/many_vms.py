# SPDX-License-Identifier: GPL-2.0-or-later
"""Back up many VMs, several at a time. A failure stops only the backup of its own VM."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from pitr import times
from pitr.errors import (
    BusyError,
    EngineBusy,
    Interrupted,
    NothingToBackUp,
    PitrError,
    UsageError,
)
from pitr.jobs.backup.one_task import BackupTask, Elsewhere, MadePoint, carry_out
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.facts import NO_FACTS, PointFacts
from pitr.model import Backup
from pitr.ovirt.engine import VM, Engine, list_vms, vms_with_tag
from pitr.reporting import Notify, Progress, about_vm
from pitr.repository import Repository
from pitr.repository.history import Failure, StepOutcome, VMOfRun
from pitr.repository.location import Location
from pitr.text import printable
from pitr.units import human_size

#: The main thread checks for signals at least this often.
_WAKE_S = 0.5
#: The pause between two rounds of busy VMs. Each attempt itself also waits for some time.
_BUSY_PAUSE_S = 5.0

ProgressOf = Callable[[str], Progress | None]
"""Returns the progress callback for the VM with this name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A VM to back up: `key`, a name or id to find it by, and `name`, to show."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome for one VM: a new point with facts about it, or an error.

    `skipped`: the VM has no disk that can be backed up.
    """

    vm: Chosen
    backup: Backup | None
    error: PitrError | None
    duration_s: float
    facts: PointFacts = NO_FACTS

    @property
    def skipped(self) -> bool:
        return isinstance(self.error, NothingToBackUp)

    @property
    def failed(self) -> bool:
        return self.error is not None and not self.skipped

    @property
    def step(self) -> StepOutcome:
        """The outcome as the history of runs keeps it."""
        known = self.backup.vm.id if self.backup is not None else None
        vm = VMOfRun(known or (self.vm.key if self.vm.key != self.vm.name else None), self.vm.name)
        if self.backup is not None:
            detail = f"{self.backup.kind.value}, {human_size(self.backup.stored_bytes)} stored"
            return StepOutcome("backup", vm, True, None, self.backup.backup_id, detail)
        error = Failure.of(self.error) if self.error is not None else None
        return StepOutcome("backup", vm, None if self.skipped else False, error)


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


@dataclass(frozen=True, slots=True)
class FleetReports:
    """Who is told of a run: progress by VM, lines for people, and each outcome at once, in the calling thread."""

    progress_of: ProgressOf
    notify: Notify
    finished: Callable[[Outcome], None]


class Around:
    """What happens around the backup of each VM: nothing. The threads of the run call these methods.

    `chooses_options`: `options` looks into the repository.
    """

    chooses_options = False

    def before(self, vm: Chosen, stopped: Callable[[], bool]) -> None:
        """Prepare the backup, until `stopped` returns True. A PitrError is the outcome of the VM."""

    def options(
        self, repository: Repository, engine: Engine, vm: Chosen, common: BackupOptions
    ) -> BackupOptions:
        """Return the options for this VM."""
        return common

    def after(self, outcome: Outcome) -> None:
        """Clean up, also if `before` or the backup failed; an interrupted backup is an outcome without result."""


class FleetInterrupted(Interrupted):
    """A signal stopped a run of several VMs. `outcomes` are those of the finished VMs, in the order of the run."""

    def __init__(self, signum: int, vms: Sequence[Chosen], outcomes: Mapping[Chosen, Outcome]) -> None:
        super().__init__(signum)
        self.outcomes = [outcomes[vm] for vm in vms if vm in outcomes]
        self.unfinished = [vm for vm in vms if vm not in outcomes]


def back_up_fleet(
    location: Location,
    engine: Engine,
    vms: Sequence[Chosen],
    options: BackupOptions,
    *,
    jobs: int,
    reports: FleetReports,
    around: Around | None = None,
    elsewhere: Elsewhere | None = None,
) -> list[Outcome]:
    """Back up `vms` into the repository at `location`, `jobs` at a time; return the outcomes in the order of `vms`.

    With `elsewhere`, the backups run in other processes, each once or, if its process dies, again; the threads of this
    one only wait for them and do what is `around` them. Blobs that go to a command stay here.

    Busy VMs are tried again after the others, for up to `options.busy_wait_s`. Backups that run at the same time share
    `options.workers`. An interrupt is raised in the calling thread, after all backups have stopped, as FleetInterrupted
    if there are several VMs. A backup that waits for the engine stops when its data flows.
    """
    share = options
    if elsewhere is None or not elsewhere.is_remote:
        share = replace(options, workers=max(1, options.workers // max(1, min(jobs, len(vms)))))
    if options.piping_out is not None or (
        elsewhere is not None and 1 in (jobs, len(vms)) and not elsewhere.is_remote
    ):
        elsewhere = None
    fleet = _Fleet(location, engine, vms, share, jobs, reports, around or Around(), elsewhere)
    try:
        fleet.run()
    except Interrupted as error:
        if len(vms) == 1:
            raise
        raise FleetInterrupted(error.signum, vms, fleet.outcomes) from error
    return [fleet.outcomes[vm] for vm in vms]


@dataclass(slots=True)
class _Fleet:
    """A run of several VMs. Only the calling thread changes its fields; each thread adds its outcome with a point."""

    location: Location
    engine: Engine
    vms: Sequence[Chosen]
    options: BackupOptions
    jobs: int
    reports: FleetReports
    around: Around
    elsewhere: Elsewhere | None
    outcomes: dict[Chosen, Outcome] = field(default_factory=dict)
    busy: list[Chosen] = field(default_factory=list)
    #: When waiting for busy VMs ends. Set after the first round.
    deadline: float = math.inf

    def run(self) -> None:
        self._round(self.vms)
        self.deadline = time.monotonic() + self.options.busy_wait_s
        while self.busy:
            time.sleep(max(0.0, min(_BUSY_PAUSE_S, self.deadline - time.monotonic())))
            vms, self.busy = self.busy, []
            self._round(vms)

    def _round(self, vms: Sequence[Chosen]) -> None:
        if self.elsewhere is None and (self.jobs == 1 or len(vms) == 1):
            for vm in vms:
                self._take(self._back_up(vm, self.reports.progress_of(vm.name), self.reports.notify))
            return
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=self.jobs, thread_name_prefix="vm") as pool:
            tasks: list[Future[Outcome]] = []
            try:
                for vm in vms:
                    progress = self.reports.progress_of(vm.name)
                    if self.elsewhere is None:
                        progress = _stopping(stop, progress)
                    notify = _naming(vm, self.reports.notify)
                    tasks.append(pool.submit(self._back_up, vm, progress, notify, stop))
                self._wait(tasks)
            except BaseException:
                stop.set()
                for task in tasks:
                    task.cancel()
                raise

    def _wait(self, tasks: Sequence[Future[Outcome]]) -> None:
        left = set(tasks)
        while left:
            done, left = wait(left, timeout=_WAKE_S, return_when=FIRST_COMPLETED)
            for task in done:
                self._take(task.result())

    def _take(self, outcome: Outcome) -> None:
        if self._is_busy(outcome) and self.options.busy_wait_s > 0 and time.monotonic() < self.deadline:
            if self.deadline == math.inf and outcome.error is not None:
                self.reports.notify(
                    f"VM {printable(outcome.vm.name)} is busy: {outcome.error.message}. pitr tries it again at the end "
                    f"of the run and waits up to {times.duration(self.options.busy_wait_s)}"
                )
            self.busy.append(outcome.vm)
            return
        self.outcomes[outcome.vm] = outcome
        self.reports.finished(outcome)

    def _is_busy(self, outcome: Outcome) -> bool:
        if isinstance(outcome.error, EngineBusy):
            return True
        # If only one VM is wanted, another pitr that works on it is reported at once.
        return isinstance(outcome.error, BusyError) and len(self.vms) > 1

    def _back_up(
        self, vm: Chosen, progress: Progress | None, notify: Notify, stop: threading.Event | None = None
    ) -> Outcome:
        started_at = time.monotonic()
        stopped = stop.is_set if stop is not None else _never
        backup: Backup | None = None
        failure: PitrError | None = None
        facts = NO_FACTS
        try:
            self.around.before(vm, stopped)
            with about_vm(vm.name):
                made = self._made(vm, progress, notify, stopped)
            backup, facts = made.backup, made.facts
        except PitrError as error:
            if isinstance(error, Interrupted | _Stopped) or stopped():
                self.around.after(Outcome(vm, None, None, time.monotonic() - started_at))
                raise
            failure = error
        outcome = Outcome(vm, backup, failure, time.monotonic() - started_at, facts)
        if backup is not None:
            # A signal from here on must not hide that there is a point.
            self.outcomes[vm] = outcome
        self.around.after(outcome)
        return outcome

    def _made(
        self, vm: Chosen, progress: Progress | None, notify: Notify, stopped: Callable[[], bool]
    ) -> MadePoint:
        options = self.options
        if self.elsewhere is None:
            # Each thread opens the repository itself: SQLite connections belong to one thread.
            with Repository.open(self.location) as repository:
                options = self.around.options(repository, self.engine, vm, options)
                task = BackupTask(vm.key, vm.name, options)
                return carry_out(repository, self.engine, task, progress, notify)
        if self.around.chooses_options:
            with Repository.open(self.location) as repository:
                options = self.around.options(repository, self.engine, vm, options)
        task = BackupTask(vm.key, vm.name, replace(options, task_id=str(uuid.uuid4())))
        return self.elsewhere.back_up(task, progress, notify, stopped)


def _never() -> bool:
    return False


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
