# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories of the changes of VMs, from one index of the catalog: no row of a point is read."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from pitr import times
from pitr.model import Kind
from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.packed import id_text, kind_of, packed_kind, packed_time, sortable_time

_CHANGES = """
SELECT p.backup_id, p.point, p.kind, p.parent_id, p.changed_data, p.changed_zero, p.changed_stored, p.changed_size
FROM vm_row AS v JOIN point_row AS p ON p.vm = v.number
"""


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
    query = f"{_CHANGES} WHERE v.id = ? ORDER BY p.point DESC, p.backup_id DESC LIMIT ?"
    return list(map(_change, catalog.rows(query, (vm_id, count))))


def of_kind_between(catalog: Catalog, vm_id: str, kind: str, since: str, until: str) -> list[Change]:
    """Return the changes of the VM's points of a kind with `since <= point <= until`, newest first.

    An empty `since` is before all points. Raises RepositoryError.
    """
    query = (
        f"{_CHANGES} WHERE v.id = ? AND p.point BETWEEN ? AND ? AND p.kind = ? "
        "ORDER BY p.point DESC, p.backup_id DESC"
    )
    first, last = (packed_time(times.from_text(time)) if time else 0 for time in (since, until))
    return list(map(_change, catalog.rows(query, (vm_id, first, last, packed_kind(Kind(kind))))))


def oldest_first(catalog: Catalog, vm_id: str) -> list[Change]:
    """Return the changes of all points of a VM, oldest first. Raises RepositoryError."""
    query = f"{_CHANGES} WHERE v.id = ? ORDER BY p.point, p.backup_id"
    return list(map(_change, catalog.rows(query, (vm_id,))))


def _change(row: sqlite3.Row) -> Change:
    backup_id, point, kind, parent_id, data, zero, stored, size = row
    parent = None if parent_id is None else id_text(parent_id)
    return Change(
        id_text(backup_id), sortable_time(point), kind_of(kind).value, parent, data, zero, stored, size
    )
