# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories of the changes of VMs, from one index of the catalog: no row of a point is read."""

from __future__ import annotations

from typing import NamedTuple

from pitr.repository.catalog.catalog import Catalog

_COLUMNS = "backup_id, point, kind, parent_id, changed_data, changed_zero, changed_stored, changed_size"


class Change(NamedTuple):
    """How much a point changed. `point` is the sortable text of its time (UTC); sizes are bytes.

    `data`, `zero`, `stored` and `size` (of the disks) are sums without disks that are full in an incremental point.
    """

    backup_id: str
    point: str
    kind: str
    parent_id: str | None
    data: int
    zero: int
    stored: int
    size: int


def newest(catalog: Catalog, vm_id: str, count: int) -> list[Change]:
    """Return the changes of the VM's `count` newest points, newest first. Raises RepositoryError."""
    query = f"SELECT {_COLUMNS} FROM point WHERE vm_id = ? ORDER BY point DESC, backup_id DESC LIMIT ?"  # noqa: S608
    return list(map(Change._make, catalog.rows(query, (vm_id, count))))


def of_kind_between(catalog: Catalog, vm_id: str, kind: str, since: str, until: str) -> list[Change]:
    """Return the changes of the VM's points of a kind with `since <= point <= until`, newest first.

    Raises RepositoryError.
    """
    query = (
        f"SELECT {_COLUMNS} FROM point WHERE vm_id = ? AND point BETWEEN ? AND ? AND kind = ? "  # noqa: S608
        "ORDER BY point DESC, backup_id DESC"
    )
    return list(map(Change._make, catalog.rows(query, (vm_id, since, until, kind))))


def oldest_first(catalog: Catalog, vm_id: str | None) -> list[tuple[str, Change]]:
    """Return the changes of all points of a VM (None: of all VMs) with the VM's id, by VM, oldest first.

    Raises RepositoryError.
    """
    where, values = ("", ()) if vm_id is None else ("WHERE vm_id = ?", (vm_id,))
    query = f"SELECT vm_id, {_COLUMNS} FROM point {where} ORDER BY vm_id, point, backup_id"  # noqa: S608
    return [(row[0], Change._make(row[1:])) for row in catalog.rows(query, values)]
