# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr run`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import RenderableType

from pitr import times
from pitr.cli import sites
from pitr.cli.display import tables
from pitr.cli.display.progress import showing, showing_each
from pitr.cli.fleet_options import CapOption, FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.cli.pipe_options import PipeOptions
from pitr.jobs import documents
from pitr.jobs.backup.options import BackupOptions
from pitr.jobs.backup.processes import template_for
from pitr.jobs.policy_run.outcome import RunResult, StepResult
from pitr.jobs.policy_run.policy import Policy, choose_policy
from pitr.jobs.policy_run.run import carry_out
from pitr.jobs.policy_run.running import RunSetup, RunWatch
from pitr.jobs.policy_run.summary import counted_steps, step_line, unfinished_in_words
from pitr.jobs.upkeep.external_data import deleting_with
from pitr.repository import Repository
from pitr.repository.history import Failure
from pitr.system import rate_limit
from pitr.units import parse_rate

#: Wait this long for VMs that are busy, as `pitr backup` does.
_BUSY_WAIT_S = 300.0

RunPolicyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="POLICY",
        help="Policy of the configuration. Default: the only one, or the one named 'default'.",
    ),
]


@with_common(engine=True, run="run", moves_data=True)
def run(
    common: Common,
    policy: RunPolicyArgument = None,
    scheduler: SchedulerOption = None,
    cap: CapOption = None,
    tls: TlsOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Carry out a policy: back up, prune, copy, verify and drill its VMs.

    The configuration says what a policy does ([policy.NAME], docs/configuration.md). The steps are independent: one
    that fails does not stop the others. At the end, pitr prints all results, sends the policy's notices, and
    exits with 1 if a step failed or found damage. If a signal stops pitr, it says what was done and what was not.

    --dry-run names the VMs and plans all steps; it changes nothing, runs no hook and sends no notice.

    With --scheduler, the workers of a fleet do the backups; hooks and all other steps run here.

    Examples: pitr run; pitr run nightly --dry-run; pitr run nightly --output json;
    pitr run nightly --scheduler tls://backup:8786
    """
    settings = common.settings
    fleet = FleetOptions(scheduler, tls, tuple(cap or ()))
    chosen = choose_policy(settings.policies, policy)
    common.run.policy = chosen.name
    places = {name: sites.location_of(name, settings) for name in chosen.sites}
    pipe = PipeOptions(None, settings.put_command, None)
    # --limit-rate comes before the rate of the policy.
    rate = parse_rate(chosen.limit_rate) if not rate_limit.is_limited() else None
    location = common.repository_location()
    fleet.refuse_pipe(settings.put_command)
    jobs = chosen.jobs or (None if scheduler else settings.jobs)
    with (
        pipe.opened() as piping_out,
        rate_limit.limited(rate),
        template_for(1 if scheduler else jobs or 1) as template,
    ):
        fleet.check()
        setup = RunSetup(
            policy=chosen,
            repository=location,
            connect=common.engine,
            backup=BackupOptions(
                workers=chosen.workers or common.workers(None),
                busy_wait_s=_BUSY_WAIT_S,
                piping_out=piping_out,
            ),
            delete_external=deleting_with(settings.delete_command),
            dry_run=dry_run,
            sites=places,
            place=lambda engine: fleet.place(common, template, jobs, location, engine),
        )
        result = carry_out(setup, _watch(common, chosen))
    _note(common, result)
    _show(common, result)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _watch(common: Common, policy: Policy) -> RunWatch:
    def finished(step: StepResult) -> None:
        common.out.notify(f"{times.time_of_day()} {step_line(step)}")

    def before_close(result: RunResult, repository: Repository) -> None:
        # After the hook, the repository may be unmounted.
        if policy.hooks.after_run and not result.dry_run:
            _note(common, result)
            common.run.store_now(repository, result.exit_code, common.out.notify)

    return RunWatch(
        notify=common.out.notify,
        progress=lambda what: showing(common.out, what),
        progress_each=lambda what, names: showing_each(common.out, what, names),
        finished=finished,
        before_close=before_close,
    )


def _note(common: Common, result: RunResult) -> None:
    """Keep the results for the history of runs."""
    common.run.steps = [step.stored for step in result.steps]
    if result.interrupted is not None:
        common.run.error = Failure.of(result.interrupted)


def _show(common: Common, result: RunResult) -> None:
    if common.out.json:
        common.out.document(documents.policy_run(result))
    else:
        common.out.show(*_in_words(result))
    would = " (dry run: nothing was changed)" if result.dry_run else ""
    common.out.notify(f"policy {result.policy}: {counted_steps(result)}{would}")


def _in_words(result: RunResult) -> Iterator[RenderableType]:
    if result.steps:
        yield tables.table(
            ("Step", "VM", "Result", "Took", "Details"),
            (
                (
                    step.step,
                    step.vm.name if step.vm is not None else "",
                    "FAILED" if not step.ok else "skipped" if step.skipped else "ok",
                    times.duration(step.duration_s) if step.duration_s else "",
                    _details(step),
                )
                for step in result.steps
            ),
            right=("Took",),
            drop=("Took",),
            least={"VM": ("cut", 12), "Details": ("fold", 20)},
            below=("Details",),
        )
    for sent in result.notices:
        if sent.error is not None:
            yield f"Notice through {sent.via} FAILED: {sent.error.message}. {sent.error.advice}".rstrip()
    if result.interrupted is not None:
        yield f"INTERRUPTED: {result.interrupted.message}. {unfinished_in_words(result)}."


def _details(step: StepResult) -> str:
    if step.error is not None:
        return f"{step.error.message}. {step.error.advice}".strip()
    return step.skipped or step.detail
