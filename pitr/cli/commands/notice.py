# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr notice test` and `pitr notice check`."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import typer

from pitr import times
from pitr.cli.commands.run import RunPolicyArgument
from pitr.cli.options import Common, with_common
from pitr.errors import UsageError
from pitr.jobs import documents
from pitr.jobs.policy_run import notices
from pitr.jobs.policy_run.notices import Notice, Sent
from pitr.jobs.policy_run.outcome import last_run
from pitr.jobs.policy_run.policy import Policy, choose_policy
from pitr.jobs.policy_run.summary import lateness

app = typer.Typer(
    help="Test the notices of a policy, or tell that no run came.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("test")
@with_common()
def test(common: Common, policy: RunPolicyArgument = None) -> None:
    """Send a test notice through every channel of a policy.

    A ping counts as a successful run at the service. If a channel fails, pitr exits with 1.

    Example: pitr notice test nightly
    """
    chosen = _with_channel(common, policy)
    text = "This is a test. You get this notice because the configuration of pitr names you."
    sent = _send(
        chosen, Notice("test", f"pitr: test of policy {chosen.name} on {socket.gethostname()}", text)
    )
    sent += notices.ping(chosen.notices, "success", text)
    if common.out.json:
        common.out.document(
            {"policy": chosen.name, "ok": all(each.ok for each in sent), "notices": documents.sent(sent)}
        )
    else:
        _show(common, sent)
    if not all(each.ok for each in sent):
        raise typer.Exit(1)


@app.command("check")
@with_common()
def check(common: Common, policy: RunPolicyArgument = None) -> None:
    """Send a notice if the last run of a policy is older than its max_age.

    Run it from another timer than the policy, best on another machine, and not more often than you want the notice.
    If no run came in time, pitr exits with 1.

    Example: pitr notice check nightly
    """
    chosen = _with_channel(common, policy)
    if chosen.max_age is None:
        raise UsageError(
            f"the policy {chosen.name} has no max_age",
            f'Set it: max_age = "26h" under [policy.{chosen.name}].',
        )
    with common.repository() as repository:
        last = last_run(repository, chosen.name)
    late = lateness(chosen, last, times.now()) if last is not None else "it has never run"
    sent: list[Sent] = []
    if late is not None:
        subject = f"pitr: policy {chosen.name} on {socket.gethostname()}: {late}"
        sent = _send(chosen, Notice("late", subject, f"Policy {chosen.name}: {late}."))
    if common.out.json:
        common.out.document(
            {
                "policy": chosen.name,
                "ok": late is None,
                "message": late,
                "last_run": times.to_text(last.ended) if last is not None else None,
                "notices": documents.sent(sent),
            }
        )
    else:
        common.out.show(f"Policy {chosen.name}: {late or 'the last run is not too old'}.")
        _show(common, sent)
    if late is not None:
        raise typer.Exit(1)


def _with_channel(common: Common, name: str | None) -> Policy:
    chosen = choose_policy(common.settings.policies, name)
    if not chosen.notices.has_channel:
        raise UsageError(
            f"the policy {chosen.name} has no channel for notices",
            f"Set urls, ping or command under [policy.{chosen.name}.notify].",
        )
    return chosen


def _send(policy: Policy, notice: Notice) -> list[Sent]:
    return notices.send(policy.notices, policy.name, notice)


def _show(common: Common, sent: Sequence[Sent]) -> None:
    for each in sent:
        if each.error is None:
            common.out.show(f"sent: {each.via}")
        else:
            common.out.show(f"FAILED: {each.via}: {each.error.message}. {each.error.advice}".rstrip())
