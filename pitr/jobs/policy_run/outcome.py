# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of a policy did: one result for each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pitr.errors import Interrupted, PitrError
from pitr.jobs.policy_run.notices import Sent
from pitr.jobs.unusual import Unusual
from pitr.model import Backup
from pitr.repository import Repository
from pitr.repository.damage import Damage
from pitr.repository.history import Failure, RunOutcome, StepOutcome, VMOfRun, outcomes

StepName = Literal["hook", "repository", "backup", "prune", "replicate", "verify", "drill"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step for one VM, or for the whole run (`vm` None).

    `skipped` says why nothing was done, which is no failure. `detail` is one line for people. `backup` is the point
    that a backup made or a drill restored. `removed` counts points, `freed_bytes` and `read_bytes` are stored bytes;
    None where they do not apply. `unusual` is what a new point differs in from its VM's earlier points.
    """

    step: StepName
    vm: VMOfRun | None = None
    error: PitrError | None = None
    skipped: str | None = None
    detail: str = ""
    duration_s: float = 0.0
    backup: Backup | None = None
    backup_id: str | None = None
    kind: str | None = None
    removed: int | None = None
    freed_bytes: int | None = None
    read_bytes: int | None = None
    damage: tuple[Damage, ...] = ()
    unusual: tuple[Unusual, ...] = ()

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def stored(self) -> StepOutcome:
        """The result as the history of runs keeps it."""
        failure = Failure.of(self.error) if self.error is not None else None
        ok = None if self.skipped is not None else self.ok
        return StepOutcome(
            self.step, self.vm, ok, failure, self.backup_id, self.skipped or self.detail or None
        )

    @property
    def name(self) -> str:
        """The step in words: "backup web1"."""
        return f"{self.step} {self.vm.name}" if self.vm is not None else self.step


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A step that an interrupted run did not finish; `vm` is None for the whole run."""

    step: StepName
    vm: str | None = None


@dataclass(slots=True)
class RunResult:
    """All results of a run in the order of time. `skipped`: a hook skipped the whole run, and why.

    `interrupted` is the signal that ended it, `unfinished` what it then had not done. `notices` are those that pitr
    sent.
    """

    policy: str
    dry_run: bool = False
    steps: list[StepResult] = field(default_factory=list)
    skipped: str | None = None
    interrupted: Interrupted | None = None
    unfinished: list[Unfinished] = field(default_factory=list)
    notices: list[Sent] = field(default_factory=list)

    @property
    def failed(self) -> list[StepResult]:
        return [step for step in self.steps if not step.ok]

    @property
    def unusual(self) -> list[StepResult]:
        return [step for step in self.steps if step.unusual]

    @property
    def ok(self) -> bool:
        return not self.failed and self.interrupted is None

    @property
    def first_error(self) -> str:
        """What failed first, in words; "" if nothing did."""
        return next((step.error.message for step in self.steps if step.error is not None), "")

    @property
    def exit_code(self) -> int:
        """0, 1 if a step failed, or that of the signal."""
        if self.interrupted is not None:
            return self.interrupted.exit_code
        return 0 if self.ok else PitrError.exit_code

    @property
    def state(self) -> str:
        """The state as hooks get it."""
        if self.interrupted is not None:
            return "interrupted"
        return "skipped" if self.skipped is not None else "ok" if self.ok else "failed"


def last_run(repository: Repository, policy: str) -> RunOutcome | None:
    """Return the last run of a policy that did something; None if there was none. Raises RepositoryError."""
    for outcome in outcomes(repository.store, command="run"):
        done = outcome.error is not None or any(step.ok is not None for step in outcome.steps)
        if outcome.policy == policy and done:
            return outcome
    return None
