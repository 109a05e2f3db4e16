# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.cli import point_options
from pitr.cli.options import Common, MaxWorkersOption, with_common
from pitr.errors import DamageError, UsageError
from pitr.units import human_size

if TYPE_CHECKING:
    from pitr.jobs.verify.stored_data import Scope, Verified
    from pitr.repository import Repository


@with_common(engine=True)
def verify(
    common: Common,
    vm: Annotated[
        str | None, typer.Argument(metavar="VM", help="Name or id; left out: everything in the repository.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Only the newest point at or before TIME, with its chain."),
    ] = None,
    point: Annotated[
        str | None, typer.Option("--point", metavar="ID", help="Only this point, with its chain.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Records, names, sizes, indexes and links: finds what is missing or swapped."
        ),
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Every byte of every blob (the default).")] = False,
    sample: Annotated[
        float | None,
        typer.Option(
            "--sample",
            min=0.0,
            max=100.0,
            metavar="PERCENT",
            help="Read only that much of the data, drawn anew.",
        ),
    ] = None,
    against_engine: Annotated[
        bool,
        typer.Option(
            "--against-engine",
            help="Compare the last points with what the VMs' disks hold now, by checksums that their hosts compute.",
        ),
    ] = False,
    max_workers: MaxWorkersOption = None,
) -> None:
    """Compare what is stored with what was written. What is missing is damage; exit code 3 when there is any.

    Examples: pitr verify; pitr verify web1 --quick; pitr verify web1 --at 2020-06-30T22:00;
    pitr verify web1 --against-engine
    """
    from pitr.cli.display import tables
    from pitr.cli.display.progress import showing
    from pitr.jobs import documents
    from pitr.jobs.verify import stored_data as job

    if sum((quick, full, sample is not None, against_engine)) > 1:
        raise UsageError("--quick, --full, --sample and --against-engine exclude each other")
    if against_engine and (at is not None or point is not None):
        raise UsageError("--against-engine compares the last point: leave out --at and --point")
    asked = point_options.at_most_one(at, point)
    workers = common.workers(max_workers)
    with common.repository() as repository:
        if against_engine:
            result = _against_engine(common, repository, vm, workers)
        else:
            scope = _scope(repository, vm, asked)
            with showing(common.out, "verify") as progress:
                result = job.verify(
                    repository,
                    scope,
                    "quick" if quick else "full",
                    sample_percent=sample,
                    workers=workers,
                    progress=progress,
                )
    if common.out.json:
        common.out.document(documents.verified(result))
    else:
        checked = f"{result.points} points, {result.streams} streams"
        if result.frames:
            checked += f", {result.frames} frames, {human_size(result.bytes)} read"
        if result.external:
            checked += f"; the data of {result.external} streams lies elsewhere and was not looked at"
        if result.ok:
            common.out.show(f"All is well ({result.level}): {checked}.")
        else:
            lost = {point for found in result.damage for point in found.points_lost}
            common.out.show(
                f"DAMAGE FOUND ({result.level}): {len(result.damage)} findings, {len(lost)} points lost; {checked}.",
                tables.damage(result.damage),
            )
    if not result.ok:
        raise typer.Exit(DamageError.exit_code)


def _against_engine(common: Common, repository: Repository, vm: str | None, workers: int) -> Verified:
    from pitr.jobs import find
    from pitr.jobs.verify.against_engine import verify_against_engine

    vms = find.vms_of(repository, vm)
    with common.engine() as engine:
        return verify_against_engine(repository, engine, vms, workers=workers, notify=common.out.notify)


def _scope(repository: Repository, vm: str | None, asked: point_options.Asked | None) -> Scope:
    from pitr.jobs import find
    from pitr.jobs.verify.stored_data import Scope

    if asked is not None:
        return Scope(backup=asked.find(repository, vm).backup)
    return Scope(vm_id=find.vms_of(repository, vm)[0].id if vm is not None else None)
