# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the outcome of a run in the repository, whatever ends the run."""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime

from pitr import times
from pitr.errors import PitrError
from pitr.model import Backup, VMName
from pitr.reporting import Notify, about_vm, now_about_vm
from pitr.repository import Repository, history
from pitr.repository.history import Failure, RunOutcome, StepOutcome, VMOfRun
from pitr.repository.location import Location

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RunLog:
    """What a run notes of itself. Only the main thread uses it.

    `expected` are VMs that the run is about; each one without a step of its own gets the outcome of the run.
    `location` is the repository of a run that does not use that of --repo.
    `exit_code` is set by a run that fails without an error, such as one that finds damage, and `error` by a run that
    has reported its error itself.
    """

    command: str = ""
    policy: str | None = None
    started: datetime = field(default_factory=times.now)
    steps: list[StepOutcome] = field(default_factory=list)
    expected: dict[str, VMOfRun] = field(default_factory=dict)
    backup_id: str | None = None
    detail: str | None = None
    exit_code: int = 0
    error: Failure | None = None
    stored: bool = False
    location: Location | None = None

    def store_now(self, repository: Repository, exit_code: int, notify: Notify) -> None:
        """Store the outcome before the end of the run, which may lose the repository. `notify` gets a failure."""
        try:
            history.add(repository.store, self.outcome(self.error, exit_code))
            self.stored = True
        except PitrError as error:
            notify(f"cannot store the outcome of this run: {error.message}")

    def expect(self, vms: Sequence[VMName | VMOfRun]) -> None:
        """Note VMs that the run is about."""
        for vm in vms:
            self.expected[vm.name] = VMOfRun(vm.id, vm.name)
        if len(self.expected) == 1:
            now_about_vm(*self.expected)

    def about(self, backup: Backup) -> None:
        """Note the one point that the run is about."""
        self.expect([backup.vm])
        self.backup_id = backup.backup_id

    def add(self, step: StepOutcome) -> None:
        """Note the outcome of one step."""
        self.steps.append(step)

    def outcome(self, error: Failure | None, exit_code: int) -> RunOutcome:
        """Return the outcome of the run that ends now."""
        done = {step.vm.name for step in self.steps if step.vm is not None}
        # If some steps failed and nothing ended the run, the other VMs are well.
        ok = error is None and (exit_code == 0 or any(step.ok is False for step in self.steps))
        rest = [
            StepOutcome(self.command, vm, ok, error, self.backup_id, self.detail)
            for name, vm in self.expected.items()
            if name not in done
        ]
        return RunOutcome(
            run_id=str(uuid.uuid4()),
            command=self.command,
            policy=self.policy,
            started=self.started,
            ended=times.now(),
            exit_code=exit_code,
            error=error,
            steps=(*self.steps, *rest),
            host=socket.gethostname()[:256],
        )


@contextmanager
def recorded(log: RunLog, repository: Callable[[], Location], notify: Notify) -> Iterator[RunLog]:
    """Store the outcome of the run in the block in the repository in this folder, also if an error ends the run.

    If the outcome cannot be stored, `notify` gets a line: the run's own error, or its success, matters more.
    """
    try:
        with about_vm(None):
            yield log
    except BaseException as error:
        code = error.exit_code if isinstance(error, PitrError) else 1
        _finish(log, log.outcome(Failure.of(error), code), repository, notify)
        raise
    _finish(log, log.outcome(log.error, log.exit_code), repository, notify)


def _finish(log: RunLog, outcome: RunOutcome, location: Callable[[], Location], notify: Notify) -> None:
    for step in outcome.steps:
        with about_vm(step.vm.name) if step.vm is not None else nullcontext():
            _log_step(step)
    if not log.stored:
        _store(outcome, location, notify)


def _log_step(step: StepOutcome) -> None:
    result = "skipped" if step.ok is None else "done" if step.ok else "FAILED"
    detail = step.error.message if step.error is not None else step.detail
    level = logging.ERROR if step.ok is False else logging.INFO
    # The command itself prints what failed.
    shown = {"shown": True} if step.ok is False else None
    _log.log(level, "%s: %s%s", step.step, result, f", {detail}" if detail else "", extra=shown)


def _store(outcome: RunOutcome, path: Callable[[], Location], notify: Notify) -> None:
    try:
        repository = Repository.open(path())
    except PitrError as error:
        # Either the run has told this, or it did not need the repository ('pitr restore --from').
        _log.debug("no history: %s", error.message)
        return
    try:
        with repository:
            history.add(repository.store, outcome)
    except PitrError as error:
        notify(f"cannot store the outcome of this run: {error.message}")
