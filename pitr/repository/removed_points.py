# SPDX-License-Identifier: GPL-2.0-or-later
"""The points that a removal hid: hide them, find them, and bring them back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pitr.model import Backup
from pitr.repository import tombstones
from pitr.repository.catalog import Catalog
from pitr.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class RemovedPoint:
    """A point with a tombstone. Its objects stay until a prune after `swept_after`, by the store's clock."""

    backup: Backup
    removed_at: datetime
    swept_after: datetime


def hide(repository: Repository, backups: Sequence[Backup]) -> None:
    """Write tombstones for the points in this order, each before the point that it is based on.

    After an interruption, no point remains whose base is hidden. Raises RepositoryError.
    """
    try:
        for backup in backups:
            tombstones.add(repository.store, backup.vm.id, backup.backup_id)
    finally:
        for vm_id in {backup.vm.id for backup in backups}:
            repository.opened_catalog().again(vm_id)


def of_vm(repository: Repository, vm_id: str | None) -> list[RemovedPoint]:
    """Return the hidden points of a VM (None: of all VMs), newest first. Raises RepositoryError."""
    rows, records = repository.opened_catalog().hidden_rows(vm_id)
    return [
        RemovedPoint(
            backup,
            records[backup.backup_id].removed_at,
            records[backup.backup_id].removed_at + repository.grace,
        )
        for backup in rows.points(vm_id)
        if backup.backup_id in records
    ]


def rows(repository: Repository) -> Catalog:
    """Return a catalog with all hidden points, whose objects must stay, too. Raises RepositoryError."""
    return repository.opened_catalog().hidden_rows()[0]


def record_names(repository: Repository, vm_id: str | None) -> set[str]:
    """Return the names of the records of the hidden points of a VM; of all VMs for None. Raises RepositoryError."""
    opened = repository.opened_catalog()
    records = opened.hidden_of(vm_id) if vm_id is not None else opened.hidden_records()
    return {record.name for record in records.values()}


def used_as_parts(repository: Repository, stream_ids: Collection[str]) -> set[str]:
    """Return which of these streams have frames that other streams use, also those of hidden points.

    Raises RepositoryError.
    """
    # All records: those of other VMs may use the frames, too.
    return repository.catalog.used_as_parts(stream_ids) | rows(repository).used_as_parts(stream_ids)


def bring_back(repository: Repository, points: Iterable[Backup]) -> None:
    """Remove the tombstones of points in this order, each after the point that it is based on.

    Raises RepositoryError.
    """
    chosen = list(points)
    for backup in chosen:
        tombstones.remove(repository.store, backup.vm.id, backup.backup_id)
    for vm_id in {backup.vm.id for backup in chosen}:
        repository.opened_catalog().again(vm_id)
