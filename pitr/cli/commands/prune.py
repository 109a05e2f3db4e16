# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli.options import Common, with_common
from pitr.errors import UsageError
from pitr.times import parse_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pitr.jobs.upkeep.prune import DeleteExternal, Pruned
    from pitr.jobs.upkeep.retention import Retention
    from pitr.model import Backup, Stream


@with_common()
def prune(
    common: Common,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", min=1, metavar="N", help="The N newest points.")
    ] = None,
    keep_daily: Annotated[
        int | None,
        typer.Option("--keep-daily", min=1, metavar="N", help="The newest point of each of the last N days."),
    ] = None,
    keep_weekly: Annotated[
        int | None, typer.Option("--keep-weekly", min=1, metavar="N", help="… of each of the last N weeks.")
    ] = None,
    keep_monthly: Annotated[
        int | None, typer.Option("--keep-monthly", min=1, metavar="N", help="… of each of the last N months.")
    ] = None,
    keep_within: Annotated[
        str | None,
        typer.Option(
            "--keep-within", metavar="SPAN", help="All within this span before the newest: 36h, 30d, 8w, 6m."
        ),
    ] = None,
    vm: Annotated[
        list[str] | None,
        typer.Option("--vm", metavar="VM", help="Only points of this VM; repeatable. Left out: of all VMs."),
    ] = None,
    grace: Annotated[
        str,
        typer.Option(
            "--grace", metavar="SPAN", help="Data that no point names (of failed backups) is kept so long."
        ),
    ] = "1d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove old points. A point that any rule keeps stays, with all the points that it stands on.

    Days, weeks and months are those in which there are points, in local time.

    Without any rule those of [retention] in the configuration count.

    Of data that lies elsewhere, delete_command under [store] in the configuration is told; where it fails, the exit
    code is 1.

    Example: pitr prune --keep-within 7d --keep-daily 30 --keep-monthly 12 --dry-run
    """
    from pitr.jobs import find
    from pitr.jobs.upkeep import prune as job

    given: dict[str, int | str | None] = {
        "keep_last": keep_last,
        "keep_daily": keep_daily,
        "keep_weekly": keep_weekly,
        "keep_monthly": keep_monthly,
        "keep_within": keep_within,
    }
    retention = _retention(given)
    if retention.is_empty:
        # Rules that are typed replace those of the configuration: a mixture of both is what nobody meant.
        retention = _retention(common.settings.retention)
    if retention.is_empty:
        raise UsageError(
            "nothing says what to keep",
            "Give at least one of --keep-last, --keep-daily, --keep-weekly, --keep-monthly, --keep-within, or "
            "[retention] in pitr's config.toml.",
        )
    with common.repository() as repository:
        names: list[str | None] = [*(vm or (None,))]
        vms = [found for name in names for found in find.vms_of(repository, name)]
        done = job.prune(
            repository,
            retention,
            list(dict.fromkeys(vms)),
            dry_run=dry_run,
            grace=parse_span("--grace", grace),
            delete_external=_delete_elsewhere(common.settings.delete_command),
            notify=common.out.notify,
        )
    _show(common, done, dry_run)
    if done.left_external and common.settings.delete_command is not None:
        raise typer.Exit(1)


def _delete_elsewhere(command: str | None) -> DeleteExternal | None:
    if command is None:
        return None
    from pitr.endpoints.streams.commands import CommandTemplate
    from pitr.system.process import run

    template = CommandTemplate.parse(command)

    def delete(backup: Backup, stream: Stream) -> None:
        run(
            template.filled(
                stream_id=stream.stream_id,
                disk_id=stream.disk_id,
                backup_id=backup.backup_id,
                vm_id=backup.vm.id,
            )
        )

    return delete


def _retention(rules: Mapping[str, int | str | None]) -> Retention:
    """The rules by the names of their options, as the command line and the configuration have them."""
    from pitr.jobs.upkeep.retention import Retention

    counts = {name: rules.get(f"keep_{name}") for name in ("last", "daily", "weekly", "monthly")}
    within = rules.get("keep_within")
    return Retention(
        **{name: int(count) if count is not None else None for name, count in counts.items()},
        within=parse_span("--keep-within", str(within)) if within is not None else None,
    )


def _show(common: Common, done: Pruned, dry_run: bool) -> None:
    from pitr.cli.display import tables
    from pitr.jobs import documents
    from pitr.units import human_size

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
    would = "Would remove" if dry_run else "Removed"
    common.out.show(f"{would} {len(done.removed)} points, {len(done.kept)} are kept.")
    if done.removed:
        common.out.show(tables.points(done.removed))
    if done.unreferenced:
        common.out.show(f"{would} {len(done.unreferenced)} objects that no point names:", *done.unreferenced)
    common.out.show(f"{'Would free' if dry_run else 'Freed'} {human_size(done.freed_bytes)}.")
