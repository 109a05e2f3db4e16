# SPDX-License-Identifier: GPL-2.0-or-later
"""Import a whole disk onto the chain that the repository has of it: compare it with a point, and store what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from pitr import times
from pitr.jobs.backup.chain_present import damaged_chains
from pitr.jobs.imports.store_point import DiskToImport, PointToImport
from pitr.jobs.point_order import newest_first
from pitr.model import Backup, known_name
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage


def with_base(repository: Repository, new: PointToImport) -> PointToImport:
    """Return `new` with the point that its whole disks are compared with; the others say why they are full.

    That is the point that was imported from the same source, if there is one, so that a second import adds nothing;
    else the newest point of the disks, unless it is later than the new one. Damaged chains are passed over.
    """
    whole = {disk.disk_id for disk in new.disks if disk.parent is None}
    points = newest_first(repository.catalog_of_vm(new.vm.id).points(new.vm.id), times.now())
    known = [backup for backup in points if any(stream.disk_id in whole for stream in backup.streams)]
    if not known:
        return new
    same = [backup for backup in known if new.may_be(backup)]
    why = _why_full(repository, new, len(whole), same or known)
    if why is not None:
        return _in_full(new, why)
    found = _first_good(repository, same or known, whole)
    if found is None:
        return _in_full(new, "the chains of the earlier points are damaged")
    backup, damaged = found
    return replace(new, disks=tuple(_compared(disk, backup, damaged) for disk in new.disks))


def _why_full(repository: Repository, new: PointToImport, whole: int, points: Sequence[Backup]) -> str | None:
    """Return why the `whole` disks of a new point are not compared with the first of the points, or None."""
    if new.full:
        return "a full was requested"
    if not repository.opens or known_name(points[0].vm.name) is None:
        return "without an identity, the disk cannot be compared with the last point"
    if whole < len(new.disks):
        return "other disks of this point hold only changes"
    if points[0].point > new.point:
        return "the repository has a later point of the disk"
    return None


def _in_full(new: PointToImport, why: str) -> PointToImport:
    return replace(new, disks=tuple(replace(disk, why=why) for disk in new.disks))


def _first_good(
    repository: Repository, points: Sequence[Backup], disks: Set[str]
) -> tuple[Backup, Mapping[str, str]] | None:
    """Return the first of the points with a whole chain of one of the disks, and the damage of others by disk id."""
    for backup in points:
        try:
            damaged = damaged_chains(repository, backup, lambda line: None)
        except StoredDamage:
            continue
        if any(stream.disk_id in disks and stream.disk_id not in damaged for stream in backup.streams):
            return backup, damaged
    return None


def _compared(disk: DiskToImport, backup: Backup, damaged: Mapping[str, str]) -> DiskToImport:
    stream = backup.stream_of(disk.disk_id)
    if stream is None:
        return replace(disk, why="the point before it does not hold the disk")
    if disk.disk_id in damaged:
        return replace(disk, why=damaged[disk.disk_id])
    return replace(disk, parent=(backup, stream), compared=True)
