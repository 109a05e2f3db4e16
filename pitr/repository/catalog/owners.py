# SPDX-License-Identifier: GPL-2.0-or-later
"""Which points a stream or a base belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pitr.repository.catalog.catalog import Catalog
from pitr.repository.catalog.packed import id_text, packed_id
from pitr.repository.catalog.places import text_of


def of_blob(catalogs: Sequence[Catalog], stream_id: str) -> Iterator[tuple[str, str]]:
    """Yield the VM and the backup id of each point in the catalogs that has this stream, or uses its frames.

    Raises RepositoryError.
    """
    found = """
        SELECT vm_row.id, point_row.backup_id FROM {} AS used
        JOIN point_row ON point_row.number = used.point JOIN vm_row ON vm_row.number = point_row.vm WHERE {} = ?
    """
    own = found.format("stream_row", text_of("used.stream_id"))
    users = found.format("part_row", "used.stream_id")
    for query, value in ((own, stream_id), (users, packed_id(stream_id))):
        for catalog in catalogs:
            for row in catalog.rows(query, [value]):
                yield row[0], id_text(row[1])


def children(catalog: Catalog, backup_id: str) -> set[str]:
    """Return the ids of the points that are based on this one directly. Raises RepositoryError."""
    query = "SELECT backup_id FROM point_row WHERE parent_id = ?"
    return {id_text(row[0]) for row in catalog.rows(query, [packed_id(backup_id)])}
