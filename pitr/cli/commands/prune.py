# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.display import tables
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.errors import UsageError
from pitr.jobs import documents, find
from pitr.jobs.upkeep import prune as job
from pitr.jobs.upkeep.external_data import deleting_with
from pitr.jobs.upkeep.prune import Pruned
from pitr.jobs.upkeep.retention import Retention
from pitr.model import VMName
from pitr.repository import Repository
from pitr.text import counted
from pitr.times import parse_span
from pitr.units import human_size

KeepLastOption = Annotated[
    int | None, typer.Option("--keep-last", min=1, metavar="N", help="Keep the N newest points.")
]
KeepDailyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-daily", min=1, metavar="N", help="Keep the newest point of each of the last N days."
    ),
]
KeepWeeklyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-weekly", min=1, metavar="N", help="Keep the newest point of each of the last N weeks."
    ),
]
KeepMonthlyOption = Annotated[
    int | None,
    typer.Option(
        "--keep-monthly", min=1, metavar="N", help="Keep the newest point of each of the last N months."
    ),
]
KeepWithinOption = Annotated[
    str | None,
    typer.Option(
        "--keep-within",
        metavar="SPAN",
        help="Keep all points in this time before the newest point: 36h, 30d, 8w, 6m or 1y.",
    ),
]
VMsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vm",
        metavar="VM",
        help="Remove only points of this VM (name or id); repeatable. Default: of all VMs.",
    ),
]
GraceOption = Annotated[
    str,
    typer.Option(
        "--grace", metavar="SPAN", help="Keep unreferenced objects (from failed backups) for this time."
    ),
]


@with_common()
def prune(
    common: Common,
    keep_last: KeepLastOption = None,
    keep_daily: KeepDailyOption = None,
    keep_weekly: KeepWeeklyOption = None,
    keep_monthly: KeepMonthlyOption = None,
    keep_within: KeepWithinOption = None,
    vm: VMsOption = None,
    grace: GraceOption = "1d",
    dry_run: DryRunOption = False,
) -> None:
    """Remove old points.

    pitr keeps a point if any rule keeps it, together with all points that it is based on. Rules count only days,
    weeks and months that have points, in local time. Without any rule on the command line, pitr uses the rules
    under [retention] in the configuration.

    For data that is stored externally, pitr runs delete_command, set under [store] in the configuration. If that
    command fails, pitr exits with 1.

    Example: pitr prune --keep-within 7d --keep-daily 30 --keep-monthly 12 --dry-run
    """
    given = {
        "keep_last": keep_last,
        "keep_daily": keep_daily,
        "keep_weekly": keep_weekly,
        "keep_monthly": keep_monthly,
        "keep_within": keep_within,
    }
    retention = _or_configured(common, Retention.of(given))
    with common.repository() as repository:
        done = job.prune(
            repository,
            retention,
            _vms(repository, vm),
            dry_run=dry_run,
            grace=parse_span("--grace", grace),
            delete_external=deleting_with(common.settings.delete_command),
            notify=common.out.notify,
        )
    _show(common, done, dry_run)
    if done.left_external and common.settings.delete_command is not None:
        raise typer.Exit(1)


def _or_configured(common: Common, given: Retention) -> Retention:
    """Return the rules of the command line, else all of the configuration: a mix of both would keep too much."""
    retention = Retention.of(common.settings.retention) if given.is_empty else given
    if retention.is_empty:
        raise UsageError(
            "no rule says which points to keep",
            "Give at least one of --keep-last, --keep-daily, --keep-weekly, --keep-monthly and --keep-within, or "
            "set rules under [retention] in pitr's config.toml.",
        )
    return retention


def _vms(repository: Repository, names: list[str] | None) -> list[VMName]:
    """Return the named VMs, each once; all VMs without names. Raises NoSuchVM and UsageError."""
    vms = [vm for name in names or (None,) for vm in find.vms_of(repository, name)]
    return list(dict.fromkeys(vms))


def _show(common: Common, done: Pruned, dry_run: bool) -> None:
    if common.out.json:
        common.out.document(
            {
                "dry_run": dry_run,
                "removed": [documents.point(backup) for backup in done.removed],
                "kept": [documents.point(backup) for backup in done.kept],
                "unreferenced": done.unreferenced,
                "freed_bytes": done.freed_bytes,
                "left_elsewhere": done.left_external,
                "created": [],
            }
        )
        return
    removed = "Would remove" if dry_run else "Removed"
    common.out.show(f"{removed} {counted(len(done.removed), 'point')}; {len(done.kept)} remain.")
    if done.removed:
        common.out.show(tables.points(done.removed))
    if done.unreferenced:
        common.out.show(
            f"{removed} {counted(len(done.unreferenced), 'unreferenced object')}:", *done.unreferenced
        )
    common.out.show(f"{'Would free' if dry_run else 'Freed'} {human_size(done.freed_bytes)}.")
