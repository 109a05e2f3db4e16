# SPDX-License-Identifier: GPL-2.0-or-later
"""Tombstones: empty objects that say that a point is to be removed.

Where hosts share no locks, a removal has two phases. A tombstone hides its point at once. The objects of the point stay
for the grace time, in which every other host finishes what it began before. Only then a sweep removes them. All times
are of the store's clock, because the clocks of hosts differ.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from contextlib import suppress
from datetime import datetime, timedelta

from pitr.repository import names
from pitr.repository.store import ObjectExists, Store

#: How long the notes of swept points stay. A host whose catalog is older takes a swept point for a lost one.
KEPT = timedelta(days=400)
_CLOCK = "probe"


def of_vm(store: Store, vm_id: str) -> dict[str, datetime]:
    """Return when the tombstones of a VM's points were written, by backup id. Raises RepositoryError."""
    return of_vms(store, vm_id).get(vm_id, {})


def of_vms(store: Store, vm_id: str | None = None) -> dict[str, dict[str, datetime]]:
    """Return when the tombstones of all VMs, or of one, were written, by VM and backup id. Raises RepositoryError."""
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    for each in store.listed(names.tombstones_of(vm_id)):
        parts = each.name.split("/")
        if len(parts) == 3:
            found[parts[1]][parts[2]] = each.written
    return dict(found)


def add(store: Store, vm_id: str, backup_id: str) -> None:
    """Say that a point is to be removed. Raises RepositoryError."""
    with suppress(ObjectExists):
        store.create(names.tombstone(vm_id, backup_id), b"")


def remove(store: Store, vm_id: str, backup_id: str) -> None:
    """Remove a tombstone. Raises RepositoryError."""
    store.delete(names.tombstone(vm_id, backup_id))


def store_time(store: Store) -> datetime:
    """Return the time by the store's clock, with the precision that it gives objects. Raises RepositoryError."""
    name = f"{_CLOCK}/{uuid.uuid4().hex}"
    store.create(name, b"")
    try:
        return store.written(name)
    finally:
        store.delete(name)


def note_swept(store: Store, vm_id: str, backup_id: str) -> None:
    """Say that a point was removed, so that no other host takes it for lost. Raises RepositoryError."""
    with suppress(ObjectExists):
        store.create(names.swept(vm_id, backup_id), b"")


def forget_swept(store: Store, vm_id: str) -> None:
    """Remove the notes of a VM's points that were removed long ago. Raises RepositoryError."""
    found = list(store.listed(names.swept_of(vm_id)))
    newest = max((each.written for each in found), default=None)
    for each in found:
        if newest is not None and newest - each.written > KEPT:
            store.delete(each.name)
