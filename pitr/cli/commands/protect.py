# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr protect`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from pitr import times
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.errors import UsageError
from pitr.jobs.asked_time import parse
from pitr.jobs.find import vm_named
from pitr.jobs.upkeep.protect import protect as protect_points
from pitr.text import counted

ProtectedVMsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="VM", help="Names or ids of the VMs. Default: all VMs.")
]
UntilOption = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Protect until this time: 2027-01-31, or a full time."),
]
ForOption = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="SPAN",
        help="Protect for this time from now: 30d, 8w, 1y. Default: the period of the lock.",
    ),
]


@with_common()
def protect(
    common: Common,
    vms: ProtectedVMsArgument = None,
    until: UntilOption = None,
    span: ForOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Extend the protection of points from removal.

    The repository must have been created with 'pitr init --lock'. pitr extends the protection of all objects in the
    chains of the VMs' points, and reads each one back. It never shortens a protection. 'pitr prune' does the same for
    the points that it keeps; 'pitr status' and 'pitr doctor' tell the least time left.

    Examples: pitr protect; pitr protect web1 --for 1y; pitr protect web1 db1 --until 2027-12-31 --dry-run
    """
    end = _end(until, span)
    with common.repository() as repository:
        chosen = [vm_named(repository.catalog_of_vm(name), name) for name in vms or ()]
        done = protect_points(repository, chosen or repository.catalog.vms(), end, dry_run=dry_run)
    if common.out.json:
        common.out.document({"dry_run": dry_run} | done.as_document())
        return
    for name in done.missing:
        common.out.notify(f"warning: {name} is missing. Run 'pitr verify'.")
    verb = "Would extend" if dry_run else "Extended"
    common.out.show(
        f"{verb} the protection of {done.extended} of {counted(done.objects, 'object')} of "
        f"{counted(done.points, 'point')} to {times.for_people(done.until)}."
    )


def _end(until: str | None, span: str | None) -> datetime | None:
    if until is not None and span is not None:
        raise UsageError("--until and --for exclude each other", "Choose one of them.")
    if until is not None:
        end = parse(until).latest
        if end <= times.now():
            raise UsageError(f"--until {until} has passed", "Name a time in the future.")
        return end
    return times.now() + times.parse_span("--for", span) if span is not None else None
