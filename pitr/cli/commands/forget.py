# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.display import removed
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.errors import NoSuchPoint, NoSuchVM, UsageError
from pitr.jobs import asked_time, documents, find
from pitr.jobs.asked_time import AskedTime
from pitr.jobs.upkeep import forget as job
from pitr.jobs.upkeep import retire as retiring
from pitr.jobs.upkeep.external_data import deleting_with
from pitr.jobs.upkeep.pruned import Pruned
from pitr.model import Backup, VMName
from pitr.repository import Repository
from pitr.text import named, printable
from pitr.times import for_people

NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="POINT|VM",
        help="Backup ids of points, or the starts of them. With one of the options: names or ids of VMs.",
    ),
]
ForgetAtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Forget the newest point of each named VM within TIME (a minute, a day), and no earlier one.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Forget all points of the VMs.")]

RetireOption = Annotated[
    bool,
    typer.Option(
        "--retire",
        help="Remove nothing: keep the VMs' points, and leave the VMs out of backups that do not name them.",
    ),
]
UnretireOption = Annotated[bool, typer.Option("--unretire", help="Undo --retire.")]


@with_common(locks=True)
def forget(
    common: Common,
    names: NamesArgument,
    at: ForgetAtOption = None,
    every: AllOption = False,
    retire: RetireOption = False,
    unretire: UnretireOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Remove the points that you name, or all points of a VM.

    pitr refuses to remove a point that others are based on, and lists them; name them too, or keep the point. As with
    'pitr prune', points that are being read stay (exit code 5), and delete_command deletes data that is stored
    externally.

    In a bucket, and in a folder after 'pitr init --grace', the points are only hidden: 'pitr list --removed' shows
    them, and 'pitr undo-prune' takes them back. The first prune after the grace time removes their data. In any other
    folder, the data goes at once: try --dry-run first.

    --retire is for VMs that you no longer back up: their points stay, as far as 'pitr prune' keeps them. A
    backup that names a retired VM, on the command line or in the configuration, still backs it up.

    Examples: pitr forget 1c2d3e4f --dry-run; pitr forget web1 --at 2020-06-30T22:00; pitr forget old-web --all;
    pitr forget old-web --retire
    """
    if sum((at is not None, every, retire, unretire)) > 1:
        raise UsageError("--at, --all, --retire and --unretire exclude each other")
    time = asked_time.parse(at) if at is not None else None
    if retire or unretire:
        _retire(common, names, undo=unretire, dry_run=dry_run)
        return
    with common.repository() as repository:
        done = job.forget(
            repository,
            [] if every else _points(repository, names, time),
            _vms(repository, names) if every else [],
            dry_run=dry_run,
            delete_external=deleting_with(common.settings.delete_command),
            notify=common.out.notify,
        )
    removed.show(common.out, done, dry_run=dry_run)
    code = done.exit_code or int(bool(done.left_external) and common.settings.delete_command is not None)
    if code:
        raise typer.Exit(code)


def _retire(common: Common, names: list[str], *, undo: bool, dry_run: bool) -> None:
    with common.repository() as repository:
        if undo:
            vms = [retiring.retired_vm(repository, name) for name in names]
            retiring.unretire(repository, vms, dry_run=dry_run)
            done = Pruned()
        else:
            vms = _vms(repository, names)
            done = retiring.retire(repository, vms, dry_run=dry_run)
    changed = [documents.vm_document(vm) for vm in vms]
    if common.out.json:
        common.out.document(
            {
                **documents.pruned(done, dry_run=dry_run),
                "retired": [] if undo else changed,
                "unretired": changed if undo else [],
            }
        )
        return
    state = f"{'would be' if dry_run else 'is'} {'no longer retired' if undo else 'retired'}"
    meaning = (
        "backups include it again" if undo else "its points stay, and only backups that name it include it"
    )
    common.out.show(*(f"VM {named(vm.name, vm.id)} {state}: {meaning}." for vm in vms))


def _vms(repository: Repository, names: list[str]) -> list[VMName]:
    """Return the named VMs, each once. Raises NoSuchVM and UsageError."""
    return list(dict.fromkeys(vm for name in names for vm in find.vms_of(repository, name)))


def _points(repository: Repository, names: list[str], time: AskedTime | None) -> list[Backup]:
    """Return the points with these ids, or those of VMs within `time`. Raises NoSuchPoint, NoSuchVM, UsageError."""
    if time is None:
        return [_point(repository, name) for name in names]
    return [_within(repository, vm, time) for vm in _vms(repository, names)]


def _within(repository: Repository, vm: VMName, time: AskedTime) -> Backup:
    backup = find.point_of(repository, vm.id, None, time).backup
    if not (time.newest or time.covers(backup.point)):
        # Elsewhere the point before TIME is right. A removal must not guess.
        raise NoSuchPoint(
            f"VM {printable(vm.name)} has no point within {time.words}",
            f"The newest one before is {backup.backup_id}, of {for_people(backup.point)}: to forget that one, give its "
            "id.",
        )
    return backup


def _point(repository: Repository, name: str) -> Backup:
    try:
        return find.point_with_id(repository, name).backup
    except NoSuchPoint as error:
        try:
            vm = find.vms_of(repository, name)[0]
        except (NoSuchVM, UsageError):
            raise error from None
        raise NoSuchPoint(
            f"{name!r} is a VM, not a point",
            f"Give the ids of points from 'pitr list', or forget all its points: pitr forget {vm.name} --all.",
        ) from None
