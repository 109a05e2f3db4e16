# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disks of a VM a backup takes, and why the others are left out."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.errors import NoSuchDisk, NothingToBackUp, UsageError
from pitr.model import LeftOut
from pitr.ovirt.engine import Disk
from pitr.text import printable


def choose_disks(
    attached: Sequence[Disk], vm_name: str, only: Sequence[str], excluded: Sequence[str]
) -> tuple[list[Disk], list[LeftOut]]:
    """The disks to take of those `attached`, and the others; `only` and `excluded` are names or ids.

    Raises NoSuchDisk, UsageError for a name that several disks have, NothingToBackUp.
    """
    for name in (*only, *excluded):
        _check_named(attached, vm_name, name)
    disks: list[Disk] = []
    left_out: list[LeftOut] = []
    for disk in attached:
        reason = _why_not(disk, only, excluded)
        if reason is None:
            disks.append(disk)
        else:
            left_out.append(LeftOut(disk.id, disk.name, reason))
    if not disks:
        why = "; ".join(f"{printable(disk.name)}: {disk.reason}" for disk in left_out)
        raise NothingToBackUp(
            f"VM {printable(vm_name)} has no disk that can be backed up",
            f"Left out: {why}." if why else "",
        )
    return disks, left_out


def _check_named(attached: Sequence[Disk], vm_name: str, name: str) -> None:
    matching = [disk for disk in attached if name in (disk.id, disk.name)]
    if not matching:
        have = ", ".join(f"{printable(disk.name)} ({disk.id})" for disk in attached)
        raise NoSuchDisk(f"VM {printable(vm_name)} has no disk {name!r}", f"It has: {have or 'none'}.")
    if len({disk.id for disk in matching}) > 1 and not any(disk.id == name for disk in matching):
        ids = ", ".join(disk.id for disk in matching)
        raise UsageError(f"several disks are named {name!r}", f"Use one of their ids: {ids}.")


def _why_not(disk: Disk, only: Sequence[str], excluded: Sequence[str]) -> str | None:
    if only and disk.id not in only and disk.name not in only:
        return "not asked for"
    if disk.id in excluded or disk.name in excluded:
        return "excluded"
    if disk.storage_type != "image":
        return f"its storage is of type {disk.storage_type}: the engine has no image of it to back up"
    if disk.shareable:
        return "it is shareable: the engine cannot tell what changes on it"
    if not disk.active:
        return "it is not active in the VM"
    return None
