# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries over all VMs for an overview: a few rows for each VM, whatever the number of points."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection

from pitr.model import Backup
from pitr.repository.catalog.catalog import Catalog


def point_counts(catalog: Catalog, vm_id: str | None = None) -> dict[str, int]:
    """Return the number of points by VM id, of one VM or of all. Raises RepositoryError."""
    where, values = ("", []) if vm_id is None else ("WHERE vm_id = ?", [vm_id])
    query = f"SELECT vm_id, count(*) FROM point {where} GROUP BY vm_id"  # noqa: S608
    return {row[0]: row[1] for row in catalog.rows(query, values)}


def incomplete_points(catalog: Catalog, vm_id: str | None = None) -> dict[str, list[str]]:
    """Return the ids of the points that lack disks that they could hold, newest first, by VM id, of one VM or of all.

    Raises RepositoryError.
    """
    found: dict[str, list[str]] = defaultdict(list)
    where, values = ("", []) if vm_id is None else ("AND vm_id = ?", [vm_id])
    query = f"""
        SELECT vm_id, backup_id FROM point
        WHERE backup_id IN (SELECT backup_id FROM left_out WHERE cause <> 'unable') {where}
        ORDER BY point DESC, backup_id DESC
    """  # noqa: S608
    for row in catalog.rows(query, values):
        found[row[0]].append(row[1])
    return found


def backups(catalog: Catalog, backup_ids: Collection[str]) -> dict[str, Backup]:
    """Return these backups by id; unknown ones are absent. Raises RepositoryError."""
    where = "WHERE backup_id IN (SELECT value FROM json_each(?))"
    listed = catalog._backups(where, [json.dumps(list(backup_ids))]) if backup_ids else []
    return {backup.backup_id: backup for backup in listed}


def chain_length(catalog: Catalog, backup_id: str) -> int:
    """Return the number of backups in the chain of this one, itself included, as far as the catalog knows them.

    The backup that stands for one that is gone counts instead.
    """
    query = """
        WITH RECURSIVE below (backup_id, parent_id) AS (
            VALUES ('', ?)
            UNION
            SELECT point.backup_id, point.parent_id FROM below JOIN point ON point.backup_id = coalesce(
                (SELECT known.backup_id FROM point AS known WHERE known.backup_id = below.parent_id),
                (SELECT instead.backup_id FROM point AS instead WHERE instead.stands_for = below.parent_id)
            )
        )
        SELECT count(*) - 1 FROM below
    """
    return int(catalog.rows(query, [backup_id])[0][0])


def refers_to_configuration(catalog: Catalog, digest: str, besides: Collection[str] = ()) -> bool:
    """Return whether a record refers to the configuration with this digest (hex), `besides` those of these backups.

    Raises RepositoryError.
    """
    query = """
        SELECT 1 FROM point
        WHERE configuration_digest = ? AND backup_id NOT IN (SELECT value FROM json_each(?)) LIMIT 1
    """
    return bool(catalog.rows(query, [digest, json.dumps(list(besides))]))
