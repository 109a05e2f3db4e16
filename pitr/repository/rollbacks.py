# SPDX-License-Identifier: GPL-2.0-or-later
"""Rollbacks in place that have begun and not ended, and the disks that other rollbacks have left.

Both are noted before anything is changed, so that a later run can go on, or clean up.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pitr.repository.pairs import OLD_DISKS, ROLLBACKS, SWAPS, Lists
from pitr.repository.store import Store


@dataclass(frozen=True, slots=True)
class UnfinishedDisk:
    """A disk that holds a part of its old and a part of its new data, and the ids of both points."""

    vm_id: str
    disk_id: str
    undo_id: str
    point_id: str
    token: str

    def end(self, store: Store) -> None:
        """Note that the disk holds the point."""
        ROLLBACKS.end(store, self.vm_id, self.disk_id, self.undo_id, self.point_id, self.token)


def begin(
    store: Store, vm_id: str, disk_ids: Sequence[str], undo_id: str, point_id: str
) -> list[UnfinishedDisk]:
    """Note that the disks are about to be changed. Raises RepositoryError."""
    token = uuid.uuid4().hex
    begun = [UnfinishedDisk(vm_id, disk_id, undo_id, point_id, token) for disk_id in disk_ids]
    for each in begun:
        ROLLBACKS.begin(store, vm_id, each.disk_id, undo_id, point_id, token)
    return begun


def of_vm(store: Lists, vm_id: str | None) -> list[UnfinishedDisk]:
    """Return the unfinished disks of a VM; of all VMs for None."""
    under = () if vm_id is None else (vm_id,)
    return sorted(
        (UnfinishedDisk(*key) for key in ROLLBACKS.open(store, *under)), key=lambda each: each.disk_id
    )


def unfinished_vms(store: Store, vm_id: str | None) -> set[str]:
    """Return the ids of the VMs (None: of all) with an unfinished rollback, in place or in the middle of its swap."""
    under = () if vm_id is None else (vm_id,)
    return {each.vm_id for each in of_vm(store, vm_id)} | {key[0] for key in SWAPS.open(store, *under)}


def points_of(store: Store, vm_id: str | None) -> frozenset[str]:
    """Return the ids by which unfinished rollbacks of a VM (None: of all VMs) name the points that they need.

    A consolidated point that has taken the place of one of them is needed instead of it.
    """
    in_place = {name for disk in of_vm(store, vm_id) for name in (disk.undo_id, disk.point_id)}
    swaps = {name for disk in unfinished_swaps(store, vm_id) for name in (disk.undo_id, disk.point_id)}
    return frozenset(in_place | swaps)


@dataclass(frozen=True, slots=True)
class OldDisk:
    """A disk that a rollback to a point leaves: detached from its VM, with the content of the undo point.

    `in_place` is the disk that takes its place.
    """

    vm_id: str
    disk_id: str
    in_place: str
    undo_id: str
    point_id: str
    token: str

    @property
    def _key(self) -> tuple[str, ...]:
        return (self.vm_id, self.disk_id, self.in_place, self.undo_id, self.point_id, self.token)

    def end(self, store: Store) -> None:
        """Note that the disk is gone, or in its VM again."""
        OLD_DISKS.end(store, *self._key)


def leave(
    store: Store, vm_id: str, replaced: Sequence[tuple[str, str]], undo_id: str, point_id: str
) -> list[OldDisk]:
    """Note disks that a rollback is about to swap: pairs of the old disk's id and that of the disk in its place."""
    token = uuid.uuid4().hex
    left = [OldDisk(vm_id, old_id, new_id, undo_id, point_id, token) for old_id, new_id in replaced]
    SWAPS.begin(store, vm_id, token)
    for each in left:
        OLD_DISKS.begin(store, *each._key)
    return left


def swapped(store: Store, left: Sequence[OldDisk]) -> None:
    """Note that the swap of these disks has ended: they are detached, or all are in their places again."""
    for vm_id, token in {(each.vm_id, each.token) for each in left}:
        SWAPS.end(store, vm_id, token)


def old_disks(store: Store, vm_id: str | None) -> list[OldDisk]:
    """Return the disks that rollbacks of a VM (None: of all VMs) have left."""
    under = () if vm_id is None else (vm_id,)
    return sorted((OldDisk(*key) for key in OLD_DISKS.open(store, *under)), key=lambda each: each.disk_id)


def unfinished_swaps(store: Store, vm_id: str | None) -> list[OldDisk]:
    """Return the disks of swaps of a VM (None: of all VMs) that have begun and not ended."""
    under = () if vm_id is None else (vm_id,)
    tokens = {token for _, token in SWAPS.open(store, *under)}
    return [each for each in old_disks(store, vm_id) if each.token in tokens] if tokens else []
