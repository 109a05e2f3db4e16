# SPDX-License-Identifier: GPL-2.0-or-later
"""Say in words how a run went: the text of notices."""

from __future__ import annotations

import socket
from datetime import datetime

from pitr import times
from pitr.jobs.policy_run.notices import Event, Notice
from pitr.jobs.policy_run.outcome import RunResult, StepResult
from pitr.jobs.policy_run.policy import Policy
from pitr.repository.history import RunOutcome
from pitr.text import counted, printable


def ended_notice(
    policy: Policy, result: RunResult, last: RunOutcome | None, started: datetime
) -> Notice | None:
    """Return the notice about the end of a run; None if the policy wants none for what happened.

    One notice tells everything. Its event is the most important one that the policy asks for.
    """
    if result.skipped is not None:
        return None
    late = lateness(policy, last, started)
    happened: list[tuple[Event, str]] = []
    if not result.ok:
        happened.append(("failure", f"FAILED: {counted_steps(result)}"))
    elif last is not None and not last.ok:
        happened.append(("recovery", "good again after a failure"))
    if result.unusual:
        names = ", ".join(printable(step.vm.name) for step in result.unusual if step.vm is not None)
        happened.append(("unusual", f"unusual changes of {names}"))
    if late is not None:
        happened.append(("late", late))
    if result.ok:
        happened.append(("success", "ok"))
    wanted = [(event, words) for event, words in happened if event in policy.notices.events]
    if not wanted:
        return None
    event, words = wanted[0]
    subject = f"pitr: policy {policy.name} on {socket.gethostname()}: {words}"
    notes = [words for event, words in happened if event in ("late", "unusual")]
    return Notice(event, subject, "\n".join([*notes, summary(result)]))


def lateness(policy: Policy, last: RunOutcome | None, now: datetime) -> str | None:
    """Return in words that no run came for longer than `max_age`; None if that is not so."""
    if policy.max_age is None or last is None or now - last.ended <= policy.max_age:
        return None
    since = times.duration((now - last.ended).total_seconds())
    return f"no run for {since}, since {times.for_people(last.ended)}"


def summary(result: RunResult) -> str:
    """Return the results as lines, failures first, each with its advice."""
    lines = [f"Policy {result.policy}: {counted_steps(result)}"]
    for step in sorted(result.steps, key=lambda step: step.ok):
        lines.append(step_line(step))
        if step.error is not None and step.error.advice:
            lines.append(f"    {printable(step.error.advice)}")
    if result.interrupted is not None:
        lines.append(unfinished_in_words(result))
    return "\n".join(lines)


def step_line(step: StepResult) -> str:
    """Return one result as a line."""
    name = printable(step.name)
    if step.error is not None:
        return f"{name}: FAILED: {printable(step.error.message)}"
    return f"{name}: {f'skipped: {step.skipped}' if step.skipped else step.detail or 'ok'}"


def unfinished_in_words(result: RunResult) -> str:
    """Return what an interrupted run did not finish."""
    left = ", ".join(printable(f"{each.step} {each.vm or ''}".rstrip()) for each in result.unfinished)
    return f"Not finished: {left or 'nothing'}"


def counted_steps(result: RunResult) -> str:
    """Return the result of a run in a few words."""
    if result.interrupted is not None:
        return result.interrupted.message
    if result.failed:
        return f"{len(result.failed)} of {counted(len(result.steps), 'step')} failed"
    return f"{counted(len(result.steps), 'step')}, all good" if result.steps else "nothing to do"
