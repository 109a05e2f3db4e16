# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries over all VMs for an overview: a few rows for each VM, whatever the number of points."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping

from pitr.model import Backup
from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.packed import Packed, id_text, packed_digest, packed_id
from pitr.repository.catalog.places import text_of

#: Most chains are within so many of a VM's newest points.
_MOST_CHAINS = 128


def point_counts(catalog: Catalog, vm_id: str | None = None) -> dict[str, int]:
    """Return the number of points by VM id, of one VM or of all. Raises RepositoryError."""
    where, values = ("", []) if vm_id is None else ("WHERE id = ?", [vm_id])
    query = f"SELECT id, (SELECT count(*) FROM point_row WHERE vm = vm_row.number) FROM vm_row {where}"  # noqa: S608
    return {row[0]: row[1] for row in catalog.rows(query, values)}


def incomplete_points(catalog: Catalog, vm_id: str | None = None) -> dict[str, list[str]]:
    """Return the ids of the points that lack disks that they could hold, newest first, by VM id, of one VM or of all.

    Raises RepositoryError.
    """
    found: dict[str, list[str]] = defaultdict(list)
    where, values = ("", []) if vm_id is None else ("AND v.id = ?", [vm_id])
    query = f"""
        SELECT v.id, p.backup_id FROM point_row AS p JOIN vm_row AS v ON v.number = p.vm
        WHERE p.number IN (SELECT point FROM left_out_row WHERE cause <> 'unable') {where}
        ORDER BY p.point DESC, p.backup_id DESC
    """  # noqa: S608
    for row in catalog.rows(query, values):
        found[row[0]].append(id_text(row[1]))
    return found


def backups(catalog: Catalog, backup_ids: Collection[str]) -> dict[str, Backup]:
    """Return these backups by id; unknown ones are absent. Raises RepositoryError."""
    where = f"WHERE {text_of('p.backup_id')} IN (SELECT value FROM json_each(?))"  # noqa: S608
    listed = catalog._backups(where, [json.dumps(list(backup_ids))]) if backup_ids else []
    return {backup.backup_id: backup for backup in listed}


def chain_length(catalog: Catalog, backup_id: str) -> int:
    """Return the number of backups in the chain of this one, itself included, as far as the catalog knows them.

    The backup that stands for one that is gone counts instead.
    """
    link = packed_id(backup_id)
    vms = catalog.rows(
        f"SELECT vm FROM point_row WHERE {text_of('backup_id')} = ?1 OR stands_for = ?2",  # noqa: S608
        [backup_id, link],
    )
    length = 0
    for limit in (_MOST_CHAINS, -1) if vms else ():
        # One index has this of the points of the VM; to look up each parent would take longer.
        newest = "SELECT backup_id, parent_id FROM point_row WHERE vm = ? ORDER BY point DESC LIMIT ?"
        parents = dict(map(tuple, catalog.rows(newest, [vms[0][0], limit])))
        length, whole = _chain_length(catalog, parents, link)
        if whole:
            break
    return length


def _chain_length(
    catalog: Catalog, parents: Mapping[Packed, Packed | None], link: Packed | None
) -> tuple[int, bool]:
    """Return the number of backups in the chain that `parents` has, and whether it has the last one."""
    seen: set[Packed] = set()
    while link is not None:
        if link not in parents:
            instead = catalog.rows("SELECT backup_id FROM point_row WHERE stands_for = ?", [link])
            link = instead[0][0] if instead else None
        if link is None or link in seen or link not in parents:
            return len(seen), False
        seen.add(link)
        link = parents[link]
    return len(seen), True


def missing_parents(catalog: Catalog, vm_id: str) -> list[str]:
    """Return the ids that points of a VM name as their parents, of points that are unknown and nothing stands for.

    Raises RepositoryError.
    """
    query = """
        SELECT DISTINCT child.parent_id FROM vm_row JOIN point_row AS child ON child.vm = vm_row.number
        WHERE vm_row.id = ? AND child.parent_id IS NOT NULL
        AND child.parent_id NOT IN (SELECT backup_id FROM point_row AS known WHERE known.vm = vm_row.number)
        AND NOT EXISTS (SELECT 1 FROM point_row AS instead WHERE instead.stands_for = child.parent_id)
    """
    return [id_text(row[0]) for row in catalog.rows(query, [vm_id])]


def refers_to_configuration(catalog: Catalog, digest: str, besides: Collection[str] = ()) -> bool:
    """Return whether a record refers to the configuration with this digest (hex), `besides` those of these backups.

    Raises RepositoryError.
    """
    query = f"""
        SELECT 1 FROM point_row
        WHERE substr(configuration_digest, 1, 8) = substr(?1, 1, 8) AND configuration_digest = ?1
        AND {text_of("backup_id")} NOT IN (SELECT value FROM json_each(?2)) LIMIT 1
    """  # noqa: S608
    return bool(catalog.rows(query, [packed_digest(digest), json.dumps(list(besides))]))
