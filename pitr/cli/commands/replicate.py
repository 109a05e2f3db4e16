# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr replicate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import typer

from pitr.cli import repository_location
from pitr.cli.display.progress import showing
from pitr.cli.fleet_options import FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import Common, DryRunOption, MaxWorkersOption, with_common
from pitr.jobs import documents, find
from pitr.jobs.asked_time import parse
from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.run import replicate as replicate_to
from pitr.model import VMName
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.history import StepOutcome
from pitr.repository.location import Location, full_text, text
from pitr.text import counted, printable
from pitr.units import human_size

SourceArgument = Annotated[
    Any,
    typer.Argument(
        metavar="SOURCE",
        help="Repository to copy from: a folder, or s3://BUCKET/PREFIX.",
        parser=repository_location.parsed,
    ),
]
TargetArgument = Annotated[
    Any,
    typer.Argument(
        metavar="TARGET",
        help="Repository to copy to: an earlier copy, or an empty or new folder or prefix.",
        parser=repository_location.parsed,
    ),
]
ReplicatedVMsOption = Annotated[
    list[str] | None,
    typer.Option("--vm", metavar="VM", help="Copy only the points of this VM (name or id); repeatable."),
]
ReplicateSinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Copy only points of this time or later, and the points that they are based on; TIME as for --at.",
    ),
]
RepairOption = Annotated[
    bool,
    typer.Option(
        "--repair",
        help="Also read all objects of TARGET's points, and replace missing and damaged ones by good ones of SOURCE.",
    ),
]


@with_common(run="replicate", moves_data=True)
def replicate(
    common: Common,
    source: SourceArgument,
    target: TargetArgument,
    vms: ReplicatedVMsOption = None,
    since: ReplicateSinceOption = None,
    repair: RepairOption = False,
    max_workers: MaxWorkersOption = None,
    dry_run: DryRunOption = False,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Copy to another repository what it lacks: a second site.

    pitr compares each object with the digest in its record while it copies, and stores a point's record last. So TARGET
    is a whole repository with fewer points at any moment, and a run that was interrupted goes on where it ended.
    Backups, removals and other runs of replicate may run at the same time.

    Points that SOURCE no longer has stay in TARGET until you prune them there. Points that you pruned only in TARGET
    are copied again, unless you exclude them with --since. Damaged points of SOURCE are named and not copied; pitr then
    exits with 3.

    --repair also works the other way: 'pitr replicate COPY ORIGINAL --repair' mends the original.

    Examples: pitr replicate /srv/backup/pitr s3://second-site/pitr; pitr replicate s3://second-site/pitr /srv/new;
    pitr replicate /srv/backup/pitr s3://second-site/pitr --scheduler tls://backup:8786
    """
    fleet = FleetOptions(scheduler, tls)
    fleet.check()
    here = common.reachable(source)
    common.run.location = here
    there = common.reachable(target)
    with Repository.open(here) as repository:
        chosen = _vms(repository, vms)
        if chosen is not None:
            common.run.expect(chosen)
        with showing(common.out, "replicate") as progress:
            options = ReplicateOptions(
                vms=chosen,
                since=parse(since).earliest if since is not None else None,
                repair=repair,
                dry_run=dry_run,
                workers=common.workers(max_workers),
            )
            on_fleet = _on_fleet(common, repository, fleet, there, options, progress)
            done = on_fleet or replicate_to(
                repository, there, options, ReplicateWatch(common.out.notify, progress)
            )
    common.run.detail = _copied(done, dry_run=dry_run)
    if chosen is None:
        common.run.add(StepOutcome("replicate", None, done.exit_code == 0, detail=common.run.detail))
    if common.out.json:
        common.out.document(documents.replicated(done, dry_run=dry_run))
    else:
        common.out.show(*_in_words(done, dry_run=dry_run))
    if done.exit_code:
        raise typer.Exit(done.exit_code)


def _on_fleet(
    common: Common,
    repository: Repository,
    fleet: FleetOptions,
    target: Location,
    options: ReplicateOptions,
    progress: Progress | None,
) -> Replicated | None:
    """Return the result of a worker, which reaches both places with its own settings; None without one."""
    if fleet.scheduler is None:
        return None
    from pitr.fleet.tasks import Replication  # noqa: PLC0415 - most commands need no fleet

    source = repository.location
    job = Replication(full_text(source), full_text(target), options)
    done: Replicated | None = fleet.done(common, repository, job, progress)
    return done and replace(done, source=text(source), target=text(target))


def _vms(repository: Repository, names: list[str] | None) -> list[VMName] | None:
    """Return the named VMs, each once; None without names. Raises NoSuchVM and UsageError."""
    if not names:
        return None
    return list(dict.fromkeys(vm for name in names for vm in find.vms_of(repository, name)))


def _in_words(done: Replicated, *, dry_run: bool) -> Iterator[str]:
    for damage in done.damage:
        yield f"DAMAGE in the source: {damage.message}"
    for damage in done.unrepaired:
        yield f"DAMAGE in the target that the source cannot repair: {damage.message}"
    for busy in done.busy:
        yield f"BUSY: {printable(busy.vm.name)}: {busy.message}"
    if done.cold:
        yield f"COLD: {counted(done.cold, 'object')} could not be read: bring them back with 'pitr warm' first."
    if done.unopened:
        yield f"SEALED: no given identity opens {counted(done.unopened, 'point')}, so they are not copied."
    if done.repaired:
        verb = "Would replace" if dry_run else "Replaced"
        size = sum(each.size for each in done.repaired)
        yield f"{verb} {counted(len(done.repaired), 'damaged object')}, {human_size(size)}."
    yield f"{_copied(done, dry_run=dry_run)}."
    if done.behind and not dry_run:
        yield f"{done.target} still lacks {counted(done.behind, 'point')}."


def _copied(done: Replicated, *, dry_run: bool) -> str:
    verb = "Would copy" if dry_run else "Copied"
    what = f"{counted(done.points, 'point')}, {counted(done.objects, 'object')}, {human_size(done.bytes)}"
    return f"{verb} {what} to {done.target}"
