# SPDX-License-Identifier: GPL-2.0-or-later
"""An argument that names a point or a VM: `pitr show 1c2d`, `pitr show web1 --at 22:00`, `pitr show web1`."""

from __future__ import annotations

from pitr.cli import point_options
from pitr.cli.display.output import Printer
from pitr.cli.point_options import Asked
from pitr.errors import NoSuchPoint, NoSuchVM, UsageError
from pitr.jobs import find
from pitr.model import Backup
from pitr.repository import Repository


def point_or_newest(repository: Repository, name: str | None, asked: Asked | None, out: Printer) -> Backup:
    """Return the point with the id `name`, the point that `asked` names, or else the newest point of the VM `name`.

    A point that a time or a VM names is described on standard error. Raises NoSuchPoint, NoSuchVM, UsageError,
    StoredDamage.
    """
    if asked is None and name is None:
        raise UsageError(
            "no point is named", "Give an id from 'pitr list', or a VM and --at 2020-06-30T22:00."
        )
    if asked is None and name is not None:
        try:
            return find.point_with_id(repository, name).backup
        except NoSuchPoint as error:
            if not _is_vm(repository, name):
                raise error from None
    chosen = (asked or newest()).find(repository, name)
    point_options.tell(out, chosen)
    return chosen.backup


def vm_or_point(
    repository: Repository, name: str | None, asked: Asked | None
) -> tuple[str | None, Asked | None]:
    """Return the VM and the point that are asked for; the argument `name` may be the id of a point instead of a VM.

    Raises NoSuchVM if it is neither, and UsageError.
    """
    if name is None or asked is not None or _is_vm(repository, name):
        return name, asked
    try:
        point = find.point_or_removed(repository, name).backup
    except NoSuchPoint:
        # The caller reports the unknown VM.
        return name, None
    return point.vm.id, Asked(None, point.backup_id)


def newest() -> Asked:
    """Return the request for the newest point."""
    return point_options.exactly_one("the newest point", "now", None)


def _is_vm(repository: Repository, name: str) -> bool:
    try:
        find.vms_of(repository, name)
    except NoSuchVM:
        return False
    return True
