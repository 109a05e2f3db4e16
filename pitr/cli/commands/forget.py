# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.cli.display import removed
from pitr.cli.options import Common, DryRunOption, with_common
from pitr.errors import NoSuchPoint, NoSuchVM, UsageError
from pitr.jobs import find
from pitr.jobs.upkeep import forget as job
from pitr.jobs.upkeep.external_data import deleting_with
from pitr.model import Backup, VMName
from pitr.repository import Repository

NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="POINT|VM",
        help="Backup ids of points, or the starts of them. With --all: names or ids of VMs.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Forget all points of the VMs.")]


@with_common()
def forget(
    common: Common,
    names: NamesArgument,
    every: AllOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Remove the points that you name, or all points of a VM.

    pitr refuses to remove a point that others are based on, and lists them; name them too, or keep the point. As with
    'pitr prune', points that are being read stay (exit code 5), and delete_command deletes data that is stored
    externally. Nothing brings removed points back: try --dry-run first.

    Examples: pitr forget 1c2d3e4f --dry-run; pitr forget old-web --all
    """
    with common.repository() as repository:
        done = job.forget(
            repository,
            [] if every else _points(repository, names),
            _vms(repository, names) if every else [],
            dry_run=dry_run,
            delete_external=deleting_with(common.settings.delete_command),
            notify=common.out.notify,
        )
    removed.show(common.out, done, dry_run=dry_run)
    code = done.exit_code or int(bool(done.left_external) and common.settings.delete_command is not None)
    if code:
        raise typer.Exit(code)


def _vms(repository: Repository, names: list[str]) -> list[VMName]:
    """Return the named VMs, each once. Raises NoSuchVM and UsageError."""
    return list(dict.fromkeys(vm for name in names for vm in find.vms_of(repository, name)))


def _points(repository: Repository, names: list[str]) -> list[Backup]:
    """Return the points with these ids. Raises NoSuchPoint, UsageError."""
    return [_point(repository, name) for name in names]


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
