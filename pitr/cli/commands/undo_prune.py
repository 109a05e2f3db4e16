# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr undo-prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.display import tables
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.jobs import documents
from pitr.jobs.upkeep import undo_prune as job
from pitr.text import counted

RemovedPointsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="POINT",
        help="Backup ids of removed points, or the starts of them. Default: all that can come back.",
    ),
]
RemovedVMOption = Annotated[
    str | None, typer.Option("--vm", metavar="VM", help="Take back only points of this VM (name or id).")
]


@with_common(locks=True)
def undo_prune(
    common: Common,
    points: RemovedPointsArgument = None,
    vm: RemovedVMOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Take back points that 'pitr prune' or 'pitr forget' removed.

    This works where a removal has a grace time: in a bucket, or in a folder after 'pitr init --grace'. 'pitr list
    --removed' shows the points and how long they stay. The points that they are based on come back with them.

    Examples: pitr undo-prune 1c2d3e4f; pitr undo-prune --vm web1 --dry-run; pitr undo-prune
    """
    with common.repository() as repository:
        done = job.undo(repository, points or (), vm, dry_run=dry_run)
    if common.out.json:
        common.out.document(documents.undone(done, dry_run=dry_run))
    else:
        said = "Would take back" if dry_run else "Took back"
        common.out.show(f"{said} {counted(len(done.points), 'point')}{':' if done.points else '.'}")
        if done.points:
            common.out.show(tables.points(done.points))
    if done.late:
        common.out.notify(
            f"{counted(done.late, 'removed point')} cannot come back: the grace time has ended. As long as 'pitr list "
            "--removed' shows a point, 'pitr restore --point' may still restore it."
        )
    for each in done.failed:
        common.out.notify(f"{each.error.message}. {each.error.advice}".strip())
    if done.exit_code:
        raise typer.Exit(done.exit_code)
