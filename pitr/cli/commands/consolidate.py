# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr consolidate`."""

from __future__ import annotations

from pitr.cli import point_options
from pitr.cli.fleet_options import FleetOptions, SchedulerOption, TlsOption
from pitr.cli.options import AtOption, Common, DryRunOption, OnlyVMArgument, PointOption, with_common
from pitr.cli.point_options import Asked
from pitr.jobs import documents
from pitr.jobs.asked_time import parse
from pitr.jobs.consolidate.one_point import Consolidated
from pitr.jobs.consolidate.one_point import consolidate as consolidate_point
from pitr.model import Backup
from pitr.repository import Repository
from pitr.text import printable
from pitr.times import for_people
from pitr.units import human_size


@with_common(locks=True)
def consolidate(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    dry_run: DryRunOption = False,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Make a point independent of older points.

    pitr writes down where the data of each disk is, and the new point takes the place of the old one: same time, same
    disks, its own id; the old id still names it. Without --at and --point, pitr takes the VM's newest point. The points
    before it may then go, with 'pitr forget' or 'pitr prune'. Stored data that a point still uses stays. Only if less
    than half of a blob is still used, pitr copies what is used and removes the blob. The next incremental backup can be
    based on the new point. 'pitr prune' consolidates by itself.

    Points whose data is damaged or stored externally cannot be consolidated. The engine is not asked.

    Examples: pitr consolidate web1; pitr consolidate web1 --at 2020-06-30 --dry-run;
    pitr consolidate web1 --scheduler tls://backup:8786
    """
    fleet = FleetOptions(scheduler, tls)
    fleet.check()
    asked = point_options.at_most_one(at, point) or Asked(parse("now"), None)
    with common.repository() as repository:
        chosen = asked.find(repository, vm)
        done = _on_fleet(common, repository, fleet, chosen.backup, dry_run=dry_run)
        done = done or consolidate_point(repository, chosen.backup, dry_run=dry_run)
    if common.out.json:
        common.out.document(documents.consolidated(done))
        return
    name, time = printable(chosen.backup.vm.name), for_people(chosen.backup.point)
    if not done.created:
        common.out.show(
            f"The point of VM {name} at {time} is not based on another one: there is nothing to do."
        )
        return
    verb = "would take" if dry_run else "takes"
    common.out.show(
        f"Point {done.created[0].backup_id} {verb} the place of {chosen.backup.backup_id}, the point of VM {name} at "
        f"{time}. It needs no other point; {human_size(done.freed_bytes)} freed."
    )


def _on_fleet(
    common: Common, repository: Repository, fleet: FleetOptions, backup: Backup, *, dry_run: bool
) -> Consolidated | None:
    """Return the result of a worker; None without one."""
    if fleet.scheduler is None:
        return None
    from pitr.fleet.tasks import Consolidation  # noqa: PLC0415 - most commands need no fleet

    done: Consolidated | None = fleet.done(common, repository, Consolidation(backup.backup_id, dry_run), None)
    return done
