# SPDX-License-Identifier: GPL-2.0-or-later
"""Sums over the points of each VM, in one pass over the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pitr.model import VMName
from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.packed import packed_time, time_of
from pitr.repository.catalog.rows import vm_from


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums over a VM's points. `recent_bytes` are stored by points since a moment, `first_bytes` by the first.

    Sizes are bytes, times UTC.
    """

    vm: VMName
    points: int
    first: datetime
    newest: datetime
    stored_bytes: int
    data_bytes: int
    recent_bytes: int
    first_bytes: int


def of_vms(catalog: Catalog, since: datetime) -> list[Totals]:
    """Return the sums of each VM that has points, by name. Raises RepositoryError."""
    # SQLite takes the other columns from the row of the minimum.
    first_query = "SELECT vm, min(point), stored_bytes FROM point_row GROUP BY vm"
    first_bytes = {row["vm"]: int(row["stored_bytes"]) for row in catalog.rows(first_query)}
    rows = catalog.rows(
        """
        SELECT v.number, v.id AS vm_id, v.name, count(*) AS points, min(p.point) AS first, max(p.point) AS newest,
               sum(p.stored_bytes) AS stored, sum(p.data_bytes) AS data,
               sum(CASE WHEN p.point >= ? THEN p.stored_bytes ELSE 0 END) AS recent
        FROM point_row AS p JOIN vm_row AS v ON v.number = p.vm GROUP BY v.number
        """,
        [packed_time(since)],
    )
    found = [
        Totals(
            vm_from(row["vm_id"], row["name"]),
            int(row["points"]),
            time_of(row["first"]),
            time_of(row["newest"]),
            int(row["stored"]),
            int(row["data"]),
            int(row["recent"]),
            first_bytes.get(row["number"], 0),
        )
        for row in rows
    ]
    return sorted(found, key=lambda each: (each.vm.name, each.vm.id))
