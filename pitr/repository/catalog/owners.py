# SPDX-License-Identifier: GPL-2.0-or-later
"""Which points a stream or a base belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pitr.repository.catalog.catalog import Catalog


def of_blob(catalogs: Sequence[Catalog], stream_id: str) -> Iterator[tuple[str, str]]:
    """Yield the VM and the backup id of each point in the catalogs that has this stream, or uses its frames.

    Raises RepositoryError.
    """
    own = "SELECT vm_id, backup_id FROM stream JOIN point USING (backup_id) WHERE stream_id = ?"
    users = """
        SELECT DISTINCT vm_id, backup_id FROM stream JOIN point USING (backup_id), json_each(stream.parts)
        WHERE stream.parts IS NOT NULL AND json_extract(value, '$[1]') = ?
    """
    # The second query reads many rows, and is seldom needed.
    for query in (own, users):
        for catalog in catalogs:
            for row in catalog.rows(query, [stream_id]):
                yield row[0], row[1]


def children(catalog: Catalog, backup_id: str) -> set[str]:
    """Return the ids of the points that are based on this one directly. Raises RepositoryError."""
    return {row[0] for row in catalog.rows("SELECT backup_id FROM point WHERE parent_id = ?", [backup_id])}
