# SPDX-License-Identifier: GPL-2.0-or-later
"""Which points a stream or a base belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.repository.catalog.catalog import Catalog


def of_stream(catalogs: Sequence[Catalog], stream_id: str) -> list[tuple[str, str]]:
    """Return the VM and the backup id of each point in the catalogs that has this stream. Raises RepositoryError."""
    query = "SELECT vm_id, backup_id FROM stream JOIN point USING (backup_id) WHERE stream_id = ?"
    return [(row[0], row[1]) for catalog in catalogs for row in catalog.rows(query, [stream_id])]


def children(catalog: Catalog, backup_id: str) -> set[str]:
    """Return the ids of the points that are based on this one directly. Raises RepositoryError."""
    return {row[0] for row in catalog.rows("SELECT backup_id FROM point WHERE parent_id = ?", [backup_id])}
