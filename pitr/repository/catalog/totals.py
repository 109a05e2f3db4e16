# SPDX-License-Identifier: GPL-2.0-or-later
"""Sums over the points of each VM, in one pass over the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pitr import times
from pitr.model import VMName
from pitr.repository.catalog.catalog import Catalog


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
    names = {vm.id: vm.name for vm in catalog.vms()}
    # SQLite takes the other columns from the row of the minimum.
    first_query = "SELECT vm_id, min(point), stored_bytes FROM point GROUP BY vm_id"
    first_bytes = {row["vm_id"]: int(row["stored_bytes"]) for row in catalog.rows(first_query)}
    rows = catalog.rows(
        """
        SELECT vm_id, count(*) AS points, min(point) AS first, max(point) AS newest,
               sum(stored_bytes) AS stored, sum(data_bytes) AS data,
               sum(CASE WHEN point >= ? THEN stored_bytes ELSE 0 END) AS recent
        FROM point GROUP BY vm_id
        """,
        [times.to_sortable(since)],
    )
    found = [
        Totals(
            VMName(row["vm_id"], names.get(row["vm_id"], row["vm_id"])),
            int(row["points"]),
            times.from_text(row["first"]),
            times.from_text(row["newest"]),
            int(row["stored"]),
            int(row["data"]),
            int(row["recent"]),
            first_bytes.get(row["vm_id"], 0),
        )
        for row in rows
    ]
    return sorted(found, key=lambda each: (each.vm.name, each.vm.id))
