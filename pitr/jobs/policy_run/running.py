# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of a policy while it works: what it uses, and what it has done so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from pitr.errors import Interrupted, PitrError
from pitr.jobs.backup.many_vms import ProgressOf
from pitr.jobs.backup.one_task import PlaceOfBackups
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.policy_run.hooks import Hooks
from pitr.jobs.policy_run.outcome import RunResult, StepName, StepResult, Unfinished
from pitr.jobs.policy_run.policy import Policy
from pitr.jobs.upkeep.prune import DeleteExternal
from pitr.model import VMName
from pitr.ovirt.engine import Engine
from pitr.reporting import Notify, Progress, about_vm
from pitr.repository import Repository
from pitr.repository.history import RunOutcome, VMOfRun
from pitr.repository.location import Location

_log = logging.getLogger(__name__)


def _here(engine: Engine) -> AbstractContextManager[PlaceOfBackups]:
    return nullcontext(PlaceOfBackups(None, 1))


@dataclass(frozen=True, slots=True)
class RunSetup:
    """What a run needs: the policy, the place of the repository, a way to the engine, and how to back up.

    `delete_external` deletes data that is stored externally; None if no command for it is configured. `sites` has the
    places of the policy's sites. `place` opens the place where backups run, by default this process.
    """

    policy: Policy
    repository: Location
    connect: Callable[[], AbstractContextManager[Engine]]
    backup: BackupOptions
    delete_external: DeleteExternal | None = None
    dry_run: bool = False
    sites: Mapping[str, Location] = field(default_factory=dict)
    place: Callable[[Engine], AbstractContextManager[PlaceOfBackups]] = _here


@dataclass(frozen=True, slots=True)
class RunWatch:
    """Who is told of a run: lines for people, progress of one thing and of several VMs, and each result at once."""

    notify: Notify
    progress: Callable[[str], AbstractContextManager[Progress | None]]
    progress_each: Callable[[str, Sequence[str]], AbstractContextManager[ProgressOf]]
    finished: Callable[[StepResult], None]
    #: Called with the result before hooks can make the repository unreachable.
    before_close: Callable[[RunResult, Repository], None]


@dataclass(slots=True)
class Running:
    """A run in progress. Only the main thread changes it.

    `opened` is the repository between the hooks before and after the run, and `last` the last run of the policy. `told`
    has the steps whose results were told.
    """

    setup: RunSetup
    watch: RunWatch
    hooks: Hooks
    result: RunResult
    pending: list[Unfinished] = field(default_factory=list)
    opened: Repository | None = None
    last: RunOutcome | None = None
    told: list[StepResult] = field(default_factory=list)

    @property
    def policy(self) -> Policy:
        return self.setup.policy

    @property
    def repository(self) -> Repository:
        if self.opened is None:
            raise AssertionError("the repository is not open")
        return self.opened

    def add(self, step: StepResult) -> None:
        """Note the result of a step, and tell it; once, even if a signal came in between and it is added again."""
        if not any(step is each for each in self.result.steps):
            self.result.steps.append(step)
        if step.vm is not None:
            self.done(step.step, step.vm.name)
        if not any(step is each for each in self.told):
            self.watch.finished(step)
            self.told.append(step)

    def expect(self, step: StepName, vms: Sequence[str]) -> None:
        """Note the VMs of a step before they are done."""
        at = next((at for at, each in enumerate(self.pending) if each.step == step), len(self.pending))
        self.pending[at : at + 1] = [Unfinished(step, vm) for vm in vms]

    def done(self, step: StepName, vm: str | None = None) -> None:
        """Note that a step is done, for one VM or (None) completely."""
        self.pending = [
            each for each in self.pending if each.step != step or (vm is not None and each.vm != vm)
        ]

    @contextmanager
    def attempt(self, step: StepName, vm: VMName | None = None) -> Iterator[None]:
        """Turn an error of the block into the result of a step, so that the other steps go on. Raises Interrupted."""
        started_at = time.monotonic()
        try:
            with about_vm(vm.name if vm is not None else None):
                yield
        except (Interrupted, BrokenPipeError):
            raise
        except PitrError as error:
            self._failed(step, vm, error, started_at)
        except Exception as error:  # noqa: BLE001 - a defect in one step must not cost the others
            _log.debug("a defect in step %s", step, exc_info=True)
            self._failed(
                step, vm, PitrError(f"a defect in pitr: {type(error).__name__}: {error}"), started_at
            )

    def _failed(self, step: StepName, vm: VMName | None, error: PitrError, started_at: float) -> None:
        of_vm = VMOfRun(vm.id, vm.name) if vm is not None else None
        self.add(StepResult(step, of_vm, error, duration_s=time.monotonic() - started_at))
