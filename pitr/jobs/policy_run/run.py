# SPDX-License-Identifier: GPL-2.0-or-later
"""Carry out a policy: hooks, backups, removal, copies, verification, drills, and notices.

The steps are independent: one that fails does not stop the others. A signal ends the run, and the result says what was
done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime

from pitr import times
from pitr.errors import Interrupted, NotNow, PitrError
from pitr.jobs.policy_run import notices, secrets
from pitr.jobs.policy_run.backups import back_up_all
from pitr.jobs.policy_run.choose import members
from pitr.jobs.policy_run.hooks import HookName, Hooks
from pitr.jobs.policy_run.notices import Sent
from pitr.jobs.policy_run.outcome import RunResult, StepResult, Unfinished, last_run
from pitr.jobs.policy_run.policy import Policy
from pitr.jobs.policy_run.running import Running, RunSetup, RunWatch
from pitr.jobs.policy_run.second_sites import replicate_to_sites
from pitr.jobs.policy_run.summary import ended_notice, summary
from pitr.jobs.policy_run.upkeep import drill_some, prune_all, verify_share
from pitr.repository import Repository, location


def carry_out(setup: RunSetup, watch: RunWatch) -> RunResult:
    """Carry out the policy and return what was done; a dry run only plans it.

    A failure of a step is in the result, and so is a signal: pitr raises nothing for either.
    """
    policy = setup.policy
    result = RunResult(policy.name, setup.dry_run)
    environ = secrets.without_secrets(policy.notices) | {
        "PITR_POLICY": policy.name,
        "PITR_REPO": location.text(setup.repository),
    }
    run = Running(setup, watch, Hooks(policy.hooks, environ, watch.notify), result, _planned(policy))
    if setup.dry_run:
        _interruptible(run, lambda: _in_repository(run))
        return result
    started = times.now()
    _interruptible(run, lambda: _sent(run, notices.ping(policy.notices, "start")))
    if result.interrupted is None:
        _interruptible(run, lambda: _with_hooks(run))
    # A second signal ends the notices only.
    _interruptible(run, lambda: _tell(run, started))
    return result


def _interruptible(run: Running, work: Callable[[], object]) -> None:
    """Do a part of the run; note the signal that ends it, and what it did not finish."""
    try:
        work()
    except Interrupted as interrupt:
        if run.result.interrupted is None:
            run.result.interrupted = interrupt
            run.result.unfinished = list(run.pending)


def _planned(policy: Policy) -> list[Unfinished]:
    return [
        Unfinished("backup"),
        *([] if policy.retention.is_empty else [Unfinished("prune")]),
        *([Unfinished("replicate")] if policy.sites else []),
        *([Unfinished("verify")] if policy.verify_every is not None else []),
        *([Unfinished("drill")] if policy.drills else []),
    ]


def _with_hooks(run: Running) -> None:
    """Do the steps between the hooks of the run, which may mount and unmount the repository."""

    def before_and_steps() -> None:
        if _hook(run, "before_run"):
            _in_repository(run)

    _interruptible(run, before_and_steps)
    _hook(run, "after_run")
    if not run.result.ok:
        _hook(run, "on_error")


def _in_repository(run: Running) -> None:
    """Open the repository and do the steps."""
    with run.attempt("repository"), Repository.open(run.setup.repository) as repository:
        run.opened = repository
        run.last = last_run(repository, run.policy.name)
        _interruptible(run, lambda: _steps(run))
        run.watch.before_close(run.result, repository)
        run.opened = None


def _steps(run: Running) -> None:
    chosen = back_up_all(run)
    vms = members(run.repository, run.policy.choice, chosen, run.last)
    prune_all(run, vms)
    replicate_to_sites(run, vms)
    verify_share(run, vms)
    drill_some(run, vms)


def _hook(run: Running, hook: HookName) -> bool:
    """Run a hook; return whether the run may go on. A failure is a step of its own. Raises Interrupted."""
    told = {}
    if hook != "before_run":
        told = {"PITR_STATE": run.result.state, "PITR_ERROR": run.result.first_error}
    started_at = time.monotonic()
    try:
        run.hooks.run(hook, told)
    except Interrupted:
        raise
    except NotNow as error:
        run.result.skipped = error.message
        run.pending = []
        run.add(StepResult("hook", skipped=error.message, duration_s=time.monotonic() - started_at))
        return False
    except PitrError as error:
        if hook == "on_error":
            run.watch.notify(f"{error.message}. {error.advice}")
        else:
            run.add(StepResult("hook", error=error, duration_s=time.monotonic() - started_at))
        return False
    return True


def _tell(run: Running, started: datetime) -> None:
    """Send the notices about the end of the run. One that fails is told and changes nothing else."""
    settings = run.policy.notices
    notice = ended_notice(run.policy, run.result, run.last, started)
    if notice is not None:
        _sent(run, notices.send(settings, run.policy.name, notice))
    _sent(run, notices.ping(settings, "success" if run.result.ok else "fail", summary(run.result)))


def _sent(run: Running, sent: Iterable[Sent]) -> None:
    for each in sent:
        run.result.notices.append(each)
        if each.error is not None:
            run.watch.notify(
                f"the notice through {each.via} failed: {each.error.message}. {each.error.advice}".rstrip()
            )
