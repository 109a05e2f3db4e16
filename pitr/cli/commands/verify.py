# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr verify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pitr.cli import named_point, point_options
from pitr.cli.display import tables
from pitr.cli.display.progress import showing
from pitr.cli.fleet_options import FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import (
    AnyVMOrPointArgument,
    AtOption,
    Common,
    MaxWorkersOption,
    PointOption,
    with_common,
)
from pitr.errors import DamageError, UsageError
from pitr.jobs import documents, find
from pitr.jobs.verify.later_versions import later_versions
from pitr.jobs.verify.processes import checks_elsewhere, template_for_checks
from pitr.jobs.verify.stored_data import Level, Scope, Verified
from pitr.jobs.verify.stored_data import verify as verify_stored_data
from pitr.jobs.verify.verified import CheckVMs
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.text import counted
from pitr.times import for_people
from pitr.units import human_size

QuickOption = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Check records, names, sizes, indexes and links. This finds data that is missing or swapped.",
    ),
]
FullOption = Annotated[bool, typer.Option("--full", help="Read every byte of every blob (the default).")]
SampleOption = Annotated[
    float | None,
    typer.Option(
        "--sample",
        min=0.0,
        max=100.0,
        metavar="PERCENT",
        help="Read only this share of the data, chosen at random each time.",
    ),
]
AgainstEngineOption = Annotated[
    bool,
    typer.Option(
        "--against-engine",
        help="Compare the last point of each VM with its disks now. The hosts compute the disks' checksums.",
    ),
]
VersionsOption = Annotated[
    bool,
    typer.Option(
        "--versions",
        help="List the protected objects that somebody overwrote or deleted in the bucket. pitr reads what it wrote.",
    ),
]


@with_common(engine=True, run="verify", moves_data=True)
def verify(
    common: Common,
    vm: AnyVMOrPointArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    quick: QuickOption = False,
    full: FullOption = False,
    sample: SampleOption = None,
    against_engine: AgainstEngineOption = False,
    versions: VersionsOption = False,
    max_workers: MaxWorkersOption = None,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Compare stored data with its recorded digests.

    Without a VM and a point, pitr verifies the whole repository; with --at, --point or the id of a point, it verifies
    one point and its chain. Missing data is damage. If pitr finds damage, it exits with 3.

    pitr remembers damage that any command found, until a check reads the same data again and finds it good. Until then,
    'pitr list' marks the lost points, --quick lists the damage too, and backups do not build on it.

    --versions is for repositories with a lock, and looks at all VMs. If it finds something, pitr exits with 3.

    Examples: pitr verify; pitr verify web1 --quick; pitr verify web1 --at 2020-06-30T22:00;
    pitr verify web1 --against-engine; pitr verify --versions; pitr verify web1 --scheduler tls://backup:8786
    """
    if sum((quick, full, sample is not None, against_engine, versions)) > 1:
        raise UsageError("--quick, --full, --sample, --against-engine and --versions exclude each other")
    if versions:
        if (vm, at, point) != (None, None, None):
            raise UsageError("--versions looks at all VMs", "Name neither a VM nor a point.")
        _versions(common)
        return
    if against_engine and (at is not None or point is not None):
        raise UsageError("--against-engine compares the last point", "Leave out --at and --point.")
    fleet = FleetOptions(scheduler, tls)
    fleet.check()
    asked = point_options.at_most_one(at, point)
    workers = common.workers(max_workers)
    all_here = scheduler is None and (vm, at, point) == (None, None, None)
    with template_for_checks(quick=quick and all_here) as template, common.repository() as repository:
        if against_engine:
            if scheduler is not None:
                raise UsageError(
                    "--against-engine does not go with --scheduler",
                    "The hosts compute the checksums already.",
                )
            result = _against_engine(common, repository, vm, workers)
        else:
            scope = _scope(common, repository, vm, asked)
            with (
                checks_elsewhere(template, repository) as elsewhere,
                showing(common.out, "verify") as progress,
            ):
                how = _How("quick" if quick else "full", sample, workers, elsewhere)
                result = _verified(common, repository, fleet, scope, how, progress)
    if not result.ok:
        common.run.detail = f"{counted(len(result.damage), 'finding')} of damage"
    _show(common, result)
    if not result.ok:
        raise typer.Exit(DamageError.exit_code)


@dataclass(frozen=True, slots=True)
class _How:
    """How to verify stored data."""

    level: Level
    sample_percent: float | None
    workers: int
    elsewhere: CheckVMs | None


def _verified(
    common: Common,
    repository: Repository,
    fleet: FleetOptions,
    scope: Scope,
    how: _How,
    progress: Progress | None,
) -> Verified:
    if fleet.scheduler is not None:
        from pitr.fleet.tasks import Verification  # noqa: PLC0415 - most commands need no fleet

        backup_id = scope.backup.backup_id if scope.backup is not None else None
        job = Verification(scope.vm_id, backup_id, how.level, how.sample_percent, how.workers)
        done: Verified | None = fleet.done(common, repository, job, progress)
        if done is not None:
            return done
    return verify_stored_data(
        repository,
        scope,
        how.level,
        sample_percent=how.sample_percent,
        workers=how.workers,
        progress=progress,
        notify=common.out.notify,
        elsewhere=how.elsewhere,
    )


def _versions(common: Common) -> None:
    with common.repository() as repository:
        result = later_versions(repository)
    if result.found:
        common.run.detail = f"{counted(len(result.found), 'object')} overwritten or deleted"
    if common.out.json:
        common.out.document(result.as_document())
    elif result.found:
        common.out.show(
            f"CHANGED BY SOMEBODY: {len(result.found)} of {counted(result.objects, 'object')}. pitr still reads what "
            "it wrote. Replace the keys of the bucket, and copy the points with 'pitr replicate'.",
            tables.table(
                ("Changed", "Overwritten", "Deleted", "Object"),
                (
                    (
                        for_people(each.changed),
                        str(each.overwritten or ""),
                        "yes" if each.deleted else "",
                        each.name,
                    )
                    for each in result.found
                ),
                right=("Overwritten",),
            ),
        )
    else:
        common.out.show(f"Nobody overwrote or deleted one of {counted(result.objects, 'object')}.")
    if result.found:
        raise typer.Exit(DamageError.exit_code)


def _against_engine(common: Common, repository: Repository, vm: str | None, workers: int) -> Verified:
    # The engine's SDK would make every other `pitr verify` start later.
    from pitr.jobs.verify.against_engine import verify_against_engine  # noqa: PLC0415

    vms = find.vms_of(repository, vm)
    common.run.expect(vms)
    with common.engine() as engine:
        return verify_against_engine(repository, engine, vms, workers=workers, notify=common.out.notify)


def _scope(
    common: Common, repository: Repository, vm: str | None, asked: point_options.Asked | None
) -> Scope:
    vm, asked = named_point.vm_or_point(repository, vm, asked)
    if asked is not None:
        chosen = asked.find(repository, vm)
        point_options.tell(common.out, chosen)
        common.run.about(chosen.backup)
        return Scope(backup=chosen.backup)
    if vm is None:
        return Scope()
    chosen_vm = find.vms_of(repository, vm)[0]
    common.run.expect([chosen_vm])
    return Scope(vm_id=chosen_vm.id)


def _show(common: Common, result: Verified) -> None:
    if common.out.json:
        common.out.document(documents.verified(result))
        return
    checked = f"{counted(result.points, 'point')}, {counted(result.streams, 'stream')}"
    if result.frames:
        checked += f", {counted(result.frames, 'frame')}, {human_size(result.bytes)} read"
    if result.unopened:
        checked += f"; {counted(result.unopened, 'stream')} sealed, so only stored digests were compared"
    if result.missed:
        checked += (
            f"; {counted(result.missed, 'stream')} NOT checked, because no given identity opens the blob"
        )
    if result.external:
        checked += f"; {counted(result.external, 'stream')} stored externally and not read"
    if result.ok:
        common.out.show(f"No damage found ({result.level}): {checked}.")
        return
    lost = {point for found in result.damage for point in found.points_lost}
    common.out.show(
        f"DAMAGE FOUND ({result.level}): {counted(len(result.damage), 'finding')}, "
        f"{counted(len(lost), 'point')} lost; {checked}.",
        tables.damage(result.damage),
    )
