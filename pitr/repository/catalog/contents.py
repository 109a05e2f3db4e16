# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the catalog that comparisons and the search for unreferenced objects need, a VM or a disk at a time."""

from __future__ import annotations

from typing import Any

from pitr.model import VMName
from pitr.repository.catalog.catalog import KEYS, Catalog
from pitr.repository.catalog.dependence import DEPENDENT_DISKS


def is_empty(catalog: Catalog) -> bool:
    """Return whether the catalog has no point. Raises RepositoryError."""
    return not catalog.rows("SELECT 1 FROM point LIMIT 1")


def rows_of_vm(catalog: Catalog, vm_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a VM in all tables, in order. Raises RepositoryError."""
    ids = "SELECT backup_id FROM point WHERE vm_id = ?"
    return {
        table: [
            dict(row)
            for row in catalog.rows(
                f"SELECT * FROM {table} WHERE backup_id IN ({ids}) ORDER BY {', '.join(key)}",  # noqa: S608
                [vm_id],
            )
        ]
        for table, key in KEYS.items()
    }


def disks_of_vm(catalog: Catalog, vm_id: str) -> list[str]:
    """Return the ids of all disks in the VM's points. Raises RepositoryError."""
    query = "SELECT DISTINCT disk_id FROM point JOIN stream USING (backup_id) WHERE vm_id = ? ORDER BY 1"
    return [row[0] for row in catalog.rows(query, [vm_id])]


def streams_named(catalog: Catalog, disk_id: str) -> set[str]:
    """Return the ids of a disk's streams that records name as a stream or as a parent. Raises RepositoryError."""
    # A lost parent may come back, and the streams based on it need it. One that another record stands for was replaced.
    query = """
        SELECT stream_id, CASE
            WHEN EXISTS (SELECT 1 FROM point AS other WHERE other.stands_for = point.parent_id) THEN NULL
            ELSE parent_stream_id
        END
        FROM stream JOIN point USING (backup_id) WHERE disk_id = ?
    """
    return {stream_id for row in catalog.rows(query, [disk_id]) for stream_id in row if stream_id is not None}


def parts_named(catalog: Catalog) -> set[tuple[str, str]]:
    """Return the disks and streams whose blobs records name as parts of other streams. Raises RepositoryError."""
    query = """
        SELECT DISTINCT json_extract(value, '$[0]'), json_extract(value, '$[1]')
        FROM stream, json_each(parts) WHERE parts IS NOT NULL
    """
    return {(row[0], row[1]) for row in catalog.rows(query)}


def disks_lost(catalog: Catalog, stream_id: str) -> list[tuple[str, str, str]]:
    """Return the disks that are lost with a stream, as (disk id, backup id, VM id)."""
    return [(row[0], row[1], row[2]) for row in catalog.rows(DEPENDENT_DISKS, [stream_id])]


def vm_of_disk(catalog: Catalog, disk_id: str) -> VMName | None:
    """Return the VM of the newest point with the disk; None if there is no such point."""
    rows = catalog.rows(
        "SELECT point.vm_id, point.vm_name FROM stream JOIN point USING (backup_id) WHERE stream.disk_id = ? "
        "ORDER BY point.point DESC LIMIT 1",
        [disk_id],
    )
    return VMName(*rows[0]) if rows else None
