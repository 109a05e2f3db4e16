# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr rollback`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pitr.cli import point_options
from pitr.cli.display.progress import showing
from pitr.cli.display.tables import rolled_back as table_of
from pitr.cli.options import (
    AtOption,
    Common,
    DisksOption,
    DryRunOption,
    MaxWorkersOption,
    NewestGoodOption,
    OnlyVMArgument,
    PointOption,
    with_common,
)
from pitr.errors import UsageError
from pitr.jobs import find
from pitr.jobs.good_points import GoodPoint
from pitr.jobs.rollback import document
from pitr.jobs.rollback import roll_back as job
from pitr.jobs.rollback.discard import discard_old
from pitr.jobs.rollback.result import RollbackContext, RollbackOptions, RollbackWatch, RolledBack
from pitr.repository import Repository
from pitr.text import counted, printable
from pitr.times import for_people
from pitr.units import human_size

InPlaceOption = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Write into the VM's own disks. Without it, the engine copies each disk first.",
    ),
]
StopOption = Annotated[
    bool, typer.Option("--stop", help="Ask the guest to shut down first, and wait until the VM is down.")
]
StartAgainOption = Annotated[bool, typer.Option("--start", help="Start the VM at the end.")]
UndoOption = Annotated[bool, typer.Option("--undo", help="Go back to the newest undo point of the VM.")]
ContinueOption = Annotated[bool, typer.Option("--continue", help="End a rollback that was interrupted.")]
DiscardOldOption = Annotated[
    bool, typer.Option("--discard-old", help="Remove the disks that earlier rollbacks of the VM have left.")
]


@with_common(engine=True, run="rollback", moves_data=True)
def rollback(
    common: Common,
    vm: OnlyVMArgument = None,
    at: AtOption = None,
    point: PointOption = None,
    newest_good: NewestGoodOption = False,
    disk: DisksOption = None,
    in_place: InPlaceOption = False,
    stop: StopOption = False,
    start: StartAgainOption = False,
    undo: UndoOption = False,
    continue_: ContinueOption = False,
    discard_old: DiscardOldOption = False,
    max_workers: MaxWorkersOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Take a VM's disks back to a point: only what differs is written.

    The VM must be down. pitr first backs up its present state: the undo point, to which --undo goes back. Then the
    engine copies each disk, pitr writes what differs from the point into the copies, and the copies take the disks'
    places. The old disks stay until --discard-old.

    With --in-place, pitr writes into the disks themselves. This needs no space, and sends little. If it is
    interrupted, the disks hold neither state: do not start the VM, and end the rollback with --continue, or take it
    back with --undo --in-place.

    pitr compares each disk with the point by the checksum of the server. The next backup compares the disks with the
    last point, once, and does not trust the engine's changes.

    Examples: pitr rollback web1 --at 2020-06-30T22:00 --stop --start; pitr rollback web1 --at yesterday --dry-run;
    pitr rollback web1 --point 1c2d --in-place; pitr rollback web1 --undo; pitr rollback web1 --continue;
    pitr rollback web1 --discard-old
    """
    request = _Request(undo, continue_, discard_old, at is not None or point is not None)
    request.check()
    options = RollbackOptions(tuple(disk or ()), in_place, stop, start, dry_run, common.workers(max_workers))
    asked = (
        None
        if request.without_point
        else point_options.exactly_one("a rollback", at, point, newest_good=newest_good)
    )
    with common.repository() as repository, common.engine() as engine:
        watch = RollbackWatch(common.out.notify, lambda what: showing(common.out, what))
        context = RollbackContext(repository, engine, options, watch)
        if asked is not None:
            wanted = GoodPoint(options.disks, check=None if dry_run else "rollback")
            chosen = asked.find_good(repository, vm, wanted, common.out.notify)
            common.run.about(chosen.backup)
            common.out.notify(point_options.in_words(chosen))
            _show(common, job.roll_back(context, chosen.backup))
            return
        _without_point(common, repository, vm, request, context)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the rollback is to do: one of these, or go to a point."""

    undo: bool
    continues: bool
    discards: bool
    names_point: bool

    @property
    def without_point(self) -> bool:
        return self.undo or self.continues or self.discards

    def check(self) -> None:
        if self.undo + self.continues + self.discards + self.names_point > 1:
            raise UsageError(
                "--at, --point, --undo, --continue and --discard-old exclude each other",
                "Run one after the other.",
            )


def _without_point(
    common: Common, repository: Repository, vm: str | None, request: _Request, context: RollbackContext
) -> None:
    catalog = repository.catalog_of_vm(vm)
    named = find.vm_named(catalog, vm) if vm is not None else find.only_vm(catalog)
    common.run.expect([named])
    if request.undo:
        _show(common, job.undo(context, named))
        return
    if request.continues:
        _show(common, job.go_on(context, named))
        return
    removed = discard_old(context, named)
    if common.out.json:
        common.out.document(document.discarded(removed, dry_run=context.options.dry_run))
        return
    verb = "would be removed" if context.options.dry_run else "removed"
    for disk in removed:
        common.out.show(f"{verb}: {printable(disk.name)} ({disk.disk_id}, {human_size(disk.size)})")
    if not removed:
        common.out.show(f"No rollback of VM {printable(named.name)} has left a disk.")


def _show(common: Common, done: RolledBack) -> None:
    if common.out.json:
        common.out.document(document.rolled_back(done))
        return
    common.out.show(table_of(done))
    name, time = printable(done.point.vm.name), for_people(done.point.point)
    if done.dry_run:
        common.out.show(f"VM {name} would go back to the point of {time}.")
        return
    common.out.show(
        f"VM {name} is at the point of {time}: {counted(len(done.disks), 'disk')}, proven by the server's checksum."
    )
    if done.undo_point is not None:
        common.out.show(f"'pitr rollback {name} --undo' goes back to {done.undo_point.backup_id}.")
