# SPDX-License-Identifier: GPL-2.0-or-later
"""Points that lack disks of their VM: prefer complete ones, and warn of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pitr import times
from pitr.errors import NoSuchDisk, UsageError
from pitr.jobs import find
from pitr.jobs.find import Choice
from pitr.model import Backup
from pitr.repository import Repository
from pitr.text import named, printable


def prefer_complete(repository: Repository, chosen: Choice, disks: Sequence[str]) -> Choice:
    """Return the newest complete point that is not newer than `chosen`, or `chosen` if there is none.

    With `disks` (names or ids), a point is complete that holds them. "now" takes the newest point in any case.
    """
    asked = chosen.asked
    if asked is None or asked.newest or _is_complete(repository, chosen.backup, disks):
        return chosen
    catalog = repository.catalog_of_vm(chosen.backup.vm.id)
    reached = False
    for backup in catalog.points(chosen.backup.vm.id):
        if reached and _is_complete(repository, backup, disks):
            later = catalog.first_after(backup.vm.id, backup.point)
            return replace(
                chosen,
                backup=backup,
                age_s=asked.age_s(backup.point),
                next_point=later.point if later else None,
                notes=(*chosen.notes, _passed_over(chosen.backup, disks)),
            )
        reached = reached or backup.backup_id == chosen.backup.backup_id
    return chosen


def _is_complete(repository: Repository, backup: Backup, disks: Sequence[str]) -> bool:
    if not disks:
        return backup.is_complete
    try:
        find.streams_of(backup, disks, repository)
    except NoSuchDisk:
        return False
    return True


def _passed_over(backup: Backup, disks: Sequence[str]) -> str:
    lacks = _lacks(backup) if not disks else "does not hold the disks that you name"
    return (
        f"pitr prefers complete points: the newer point of {times.for_people(backup.point)} {lacks}; "
        f"--point {backup.backup_id} takes it"
    )


def _lacks(backup: Backup) -> str:
    disks = ", ".join(
        f"{named(disk.name, disk.disk_id)} ({printable(disk.reason)})" for disk in backup.missing_disks
    )
    return f"lacks {'disk' if len(backup.missing_disks) == 1 else 'disks'} {disks}"


def warnings_of(backup: Backup, disks: Sequence[str]) -> list[str]:
    """Return a warning if the point lacks disks of its VM. With `disks`, only those count."""
    if disks or backup.is_complete:
        return []
    return [
        f"the point of {times.for_people(backup.point)} is incomplete: it {_lacks(backup)} of VM "
        f"{printable(backup.vm.name)}"
    ]


def check_complete(repository: Repository, backup: Backup, disks: Sequence[str], what: str) -> None:
    """Raise UsageError if the point lacks disks of its VM. With `disks`, only those count.

    `what` says what would mix disks of several times, or make half a VM ("--replace").
    """
    warnings = warnings_of(backup, disks)
    if not warnings:
        return
    points = repository.catalog_of_vm(backup.vm.id).points(backup.vm.id)
    complete = next((point for point in points if point.is_complete), None)
    other = (
        f"The newest complete point is of {times.for_people(complete.point)}: --point {complete.backup_id}. "
        if complete is not None
        else ""
    )
    raise UsageError(
        f"{what} needs a complete point, but {warnings[0]}",
        f"{other}Restore some disks with --disk, or accept the missing disks with --incomplete.",
    )
