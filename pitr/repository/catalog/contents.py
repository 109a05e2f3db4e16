# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the catalog that comparisons and the search for unreferenced objects need, a VM or a disk at a time."""

from __future__ import annotations

from typing import Any

from pitr.model import VMName
from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.dependence import DEPENDENT_DISKS
from pitr.repository.catalog.packed import id_text, packed_id
from pitr.repository.catalog.places import points_of
from pitr.repository.catalog.rows import vm_from

#: The columns that identify a row, by view.
KEYS = {"point": ("backup_id",), "stream": ("stream_id",), "left_out": ("backup_id", "disk_id")}


def is_empty(catalog: Catalog) -> bool:
    """Return whether the catalog has no point. Raises RepositoryError."""
    return not catalog.rows("SELECT 1 FROM point_row LIMIT 1")


def counts_of_vm(catalog: Catalog, vm_id: str) -> tuple[int, int]:
    """Return the numbers of the points and streams of a VM. Raises RepositoryError."""
    query = """
        SELECT count(*), coalesce(sum((SELECT count(*) FROM stream_row WHERE point = p.number)), 0)
        FROM point_row AS p WHERE p.number BETWEEN ? AND ?
    """
    vms = catalog.rows("SELECT number FROM vm_row WHERE id = ?", [vm_id])
    row = catalog.rows(query, points_of(vms[0][0]))[0] if vms else (0, 0)
    return row[0], row[1]


def same_rows(catalog: Catalog, other: Catalog, vm_id: str) -> bool:
    """Return whether both catalogs have the same rows of a VM. Raises RepositoryError."""
    return _plain_rows(catalog, vm_id) == _plain_rows(other, vm_id)


def _plain_rows(catalog: Catalog, vm_id: str) -> list[list[tuple[Any, ...]]]:
    """Return the rows of a VM in order, without the numbers of rows, which differ between catalogs."""
    vms = catalog.rows("SELECT number FROM vm_row WHERE id = ?", [vm_id])
    if not vms:
        return [[], [], []]
    values = points_of(vms[0][0])
    points = catalog.rows("SELECT * FROM point_row WHERE number BETWEEN ? AND ? ORDER BY backup_id", values)
    found = [[tuple(row)[2:] for row in points]]
    for table, order_by in (("stream_row", "t.position"), ("left_out_row", "disk_row.id")):
        query = f"""
            SELECT t.*, disk_row.id, p.backup_id FROM {table} AS t
            JOIN disk_row ON disk_row.number = t.disk JOIN point_row AS p ON p.number = t.point
            WHERE t.point BETWEEN ? AND ? ORDER BY p.backup_id, {order_by}
        """  # noqa: S608
        rows = map(tuple, catalog.rows(query, values))
        # The first column is the number of the point. That of the disk is the second or the fourth.
        at = 3 if table == "stream_row" else 1
        found.append([row[1:at] + row[at + 1 :] for row in rows])
    return found


def rows_of_vm(catalog: Catalog, vm_id: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a VM by the names of the views, in order. Raises RepositoryError.

    Their values are compact, apart from the ids in KEYS, and they do not have numbers of other rows.
    """
    vms = catalog.rows("SELECT number FROM vm_row WHERE id = ?", [vm_id])
    if not vms:
        return {view: [] for view in KEYS}
    values = points_of(vms[0][0])
    points = catalog.rows("SELECT * FROM point_row WHERE number BETWEEN ? AND ?", values)
    backup_ids = {row["number"]: id_text(row["backup_id"]) for row in points}
    found = {"point": [{**dict(row), "backup_id": backup_ids[row["number"]]} for row in points]}
    for view in ("stream", "left_out"):
        query = f"""
            SELECT t.*, disk_row.id AS disk_id FROM {view}_row AS t JOIN disk_row ON disk_row.number = t.disk
            WHERE t.point BETWEEN ? AND ?
        """  # noqa: S608
        found[view] = [
            {**dict(row), "backup_id": backup_ids.get(row["point"], "?")}
            for row in catalog.rows(query, values)
        ]
    for row in found["stream"]:
        row["stream_id"] = id_text(row["stream_id"])
    for view, key in KEYS.items():
        for row in found[view]:
            for column in ("number", "vm", "disk"):
                row.pop(column, None)
            if view != "point":
                del row["point"]
        found[view].sort(key=lambda row: tuple(row[column] for column in key))
    return found


def disks_of_vm(catalog: Catalog, vm_id: str) -> list[str]:
    """Return the ids of all disks in the VM's points. Raises RepositoryError."""
    query = """
        SELECT DISTINCT disk_row.id FROM vm_row AS v JOIN point_row AS p ON p.vm = v.number
        JOIN stream_row AS s ON s.point = p.number JOIN disk_row ON disk_row.number = s.disk
        WHERE v.id = ? ORDER BY 1
    """
    return [row[0] for row in catalog.rows(query, [vm_id])]


def streams_named(catalog: Catalog, disk_id: str) -> set[str]:
    """Return the ids of a disk's streams that records name as a stream or as a parent. Raises RepositoryError."""
    # A lost parent may come back, and the streams based on it need it. One that another record stands for was replaced.
    query = """
        SELECT s.stream_id, CASE
            WHEN EXISTS (SELECT 1 FROM point_row AS other WHERE other.stands_for = p.parent_id) THEN NULL
            ELSE s.parent_stream_id
        END
        FROM disk_row JOIN stream_row AS s ON s.disk = disk_row.number JOIN point_row AS p ON p.number = s.point
        WHERE disk_row.id = ?
    """
    return {id_text(stream) for row in catalog.rows(query, [disk_id]) for stream in row if stream is not None}


def parts_named(catalog: Catalog, disk_id: str) -> set[str]:
    """Return the ids of a disk's streams whose blobs records name as parts of other streams. Raises RepositoryError."""
    query = "SELECT DISTINCT stream_id FROM part_row WHERE disk_id = ?"
    return {id_text(row[0]) for row in catalog.rows(query, [disk_id])}


def disks_lost(catalog: Catalog, stream_id: str) -> list[tuple[str, str, str]]:
    """Return the disks that are lost with a stream, as (disk id, backup id, VM id)."""
    rows = catalog.rows(DEPENDENT_DISKS, [packed_id(stream_id), stream_id])
    return [(row[0], id_text(row[1]), row[2]) for row in rows]


def vm_of_disk(catalog: Catalog, disk_id: str) -> VMName | None:
    """Return the VM of the newest point with the disk; None if there is no such point."""
    query = """
        SELECT vm_row.id, p.vm_name FROM disk_row JOIN stream_row AS s ON s.disk = disk_row.number
        JOIN point_row AS p ON p.number = s.point JOIN vm_row ON vm_row.number = p.vm
        WHERE disk_row.id = ? ORDER BY p.point DESC LIMIT 1
    """
    rows = catalog.rows(query, [disk_id])
    return vm_from(*rows[0]) if rows else None
