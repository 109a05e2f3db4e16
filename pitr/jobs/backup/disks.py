# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the disks of a VM to back up, and say why the others are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from pitr.errors import NoSuchDisk, NothingToBackUp
from pitr.jobs.find import by_id_or_name
from pitr.model import Cause, LeftOut
from pitr.ovirt.engine import Disk
from pitr.text import named, printable

#: Returns the ids of all disks that a name or id can mean.
Kin = Callable[[str], Set[str]]


def choose_disks(
    attached: Sequence[Disk],
    vm_name: str,
    only: Sequence[str],
    excluded: Sequence[str],
    kin: Kin = lambda name: frozenset(),
) -> tuple[list[Disk], list[LeftOut]]:
    """Return the disks to back up, and the other `attached` disks; `only` and `excluded` are names or ids.

    `kin` returns the ids of the disks that had a name or id before, and of those that took their places.

    Raises NoSuchDisk, UsageError if several disks have a name, NothingToBackUp.
    """
    wanted = {_disk_named(attached, vm_name, name, kin).id for name in only}
    unwanted = {_disk_named(attached, vm_name, name, kin).id for name in excluded}
    disks: list[Disk] = []
    left_out: list[LeftOut] = []
    for disk in attached:
        reason, cause = _why_unable(disk), Cause.UNABLE
        if reason is None and (disk.id in unwanted or (only and disk.id not in wanted)):
            reason, cause = "excluded" if disk.id in unwanted else "not selected", Cause.CHOSEN
        if reason is None:
            disks.append(disk)
        else:
            left_out.append(LeftOut(disk.id, disk.name, reason, cause))
    if not disks:
        why = "; ".join(f"{printable(disk.name)}: {disk.reason}" for disk in left_out)
        raise NothingToBackUp(
            f"VM {printable(vm_name)} has no disk that can be backed up",
            f"Left out: {why}." if why else "",
        )
    return disks, left_out


def _disk_named(attached: Sequence[Disk], vm_name: str, name: str, kin: Kin) -> Disk:
    disk = by_id_or_name(name, "disks", [(disk.id, disk.name, disk) for disk in attached])
    if disk is None:
        family = kin(name)
        disk = by_id_or_name(name, "disks", [(each.id, name, each) for each in attached if each.id in family])
    if disk is None:
        listed = ", ".join(named(disk.name, disk.id) for disk in attached) or "none"
        raise NoSuchDisk(f"VM {printable(vm_name)} has no disk {name!r}", f"It has: {listed}.")
    return disk


def _why_unable(disk: Disk) -> str | None:
    if disk.storage_type != "image":
        return f"its storage is of type {disk.storage_type}: the engine has no image of it to back up"
    if disk.shareable:
        return "it is shareable: the engine cannot track its changes"
    if not disk.active:
        return "it is not active in the VM"
    return None
