# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.display import removed
from pitr.cli.keep_options import (
    KeepDailyOption,
    KeepHourlyOption,
    KeepLastOption,
    KeepMonthlyOption,
    KeepWeeklyOption,
    KeepWithinOption,
    KeepYearlyOption,
    rules,
)
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.errors import UsageError
from pitr.jobs import find
from pitr.jobs.upkeep import prune as job
from pitr.jobs.upkeep.external_data import deleting_with
from pitr.model import VMName
from pitr.repository import Repository
from pitr.times import parse_span

VMsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vm",
        metavar="VM",
        help="The same as the argument VM; repeatable.",
    ),
]
GraceOption = Annotated[
    str,
    typer.Option(
        "--grace", metavar="SPAN", help="Keep unreferenced objects (from failed backups) for this time."
    ),
]


NoConsolidateOption = Annotated[
    bool,
    typer.Option(
        "--no-consolidate", help="Consolidate nothing: points stay on which points that rules keep are based."
    ),
]
VMsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="VM", help="Names or ids of VMs: remove only their points. Default: all VMs."),
]


@with_common(run="prune", locks=True)
def prune(
    common: Common,
    vms: VMsArgument = None,
    keep_last: KeepLastOption = None,
    keep_hourly: KeepHourlyOption = None,
    keep_daily: KeepDailyOption = None,
    keep_weekly: KeepWeeklyOption = None,
    keep_monthly: KeepMonthlyOption = None,
    keep_yearly: KeepYearlyOption = None,
    keep_within: KeepWithinOption = None,
    vm: VMsOption = None,
    grace: GraceOption = "1d",
    no_consolidate: NoConsolidateOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Remove old points.

    pitr keeps a point if any rule keeps it. Rules count only hours, days, weeks, months and years that have points, in
    local time. Without any rule on the command line, pitr uses the rules under [retention] in the configuration. Rules
    do not count points that are known to be damaged, so the newest good point always stays.

    A kept point that is based on one that goes is consolidated, as with 'pitr consolidate', so that no full is ever
    needed. Chains of more than 90 points are cut in the same way. Of stored data that is hardly used any more, pitr
    copies what is used. Points that cannot be consolidated keep what they need; the result says why each point is
    kept: a rule, or "needed by" a point.

    pitr also removes unreferenced objects, which failed backups left. If you name VMs, it removes only those that
    backups of these VMs left.

    In a bucket, and in a folder after 'pitr init --grace', a removed point is only hidden: 'pitr list --removed' shows
    it, and 'pitr undo-prune' takes it back. The first prune after the grace time removes its data.

    A VM that is being backed up or read is left alone: pitr goes on with the others, lists it as busy and exits with 5.

    For data that is stored externally, pitr runs delete_command, set under [store] in the configuration. If that
    command fails, pitr exits with 1.

    Examples: pitr prune --keep-within 7d --keep-daily 30 --keep-monthly 12 --dry-run; pitr prune web1 --keep-last 7
    """
    retention = rules(
        common,
        keep_last=keep_last,
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_monthly=keep_monthly,
        keep_yearly=keep_yearly,
        keep_within=keep_within,
    )
    if retention.is_empty:
        raise UsageError(
            "no rule says which points to keep",
            "Give at least one of --keep-last, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly, "
            "--keep-yearly and --keep-within, or set rules under [retention] in pitr's config.toml.",
        )
    with common.repository() as repository:
        chosen = _vms(repository, [*(vms or ()), *(vm or ())])
        common.run.expect(chosen)
        done = job.prune(
            repository,
            retention,
            chosen,
            dry_run=dry_run,
            grace=parse_span("--grace", grace),
            only=bool(vms or vm),
            delete_external=deleting_with(common.settings.delete_command),
            consolidate=not no_consolidate,
            notify=common.out.notify,
        )
    for step in done.steps("prune"):
        common.run.add(step)
    removed.show(common.out, done, dry_run=dry_run)
    code = done.exit_code or int(bool(done.left_external) and common.settings.delete_command is not None)
    if code:
        raise typer.Exit(code)


def _vms(repository: Repository, names: list[str]) -> list[VMName]:
    """Return the named VMs, each once; all VMs without names. Raises NoSuchVM and UsageError."""
    vms = [vm for name in names or (None,) for vm in find.vms_of(repository, name)]
    return list(dict.fromkeys(vms))
