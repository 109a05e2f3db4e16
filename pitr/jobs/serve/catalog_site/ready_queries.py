# SPDX-License-Identifier: GPL-2.0-or-later
"""The ready-made queries of the catalog, for the browser and for `pitr catalog query`."""

from __future__ import annotations

import sqlite3
import tempfile
import textwrap
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pitr.errors import UsageError
from pitr.jobs.serve.catalog_site.snapshot import Snapshot
from pitr.repository import sqlite
from pitr.repository.location import Location


@dataclass(frozen=True, slots=True)
class ReadyQuery:
    """A query of the catalog with its drills and chains; `parameters` are the names of its values, all optional."""

    name: str
    title: str
    description: str
    sql: str
    parameters: tuple[str, ...]


_QUERIES = {
    "points_per_vm": (
        "Points per VM",
        "The number, kinds, age and stored size of the points of each VM.",
        """
        SELECT vm.vm_name, vm.points,
               sum(point.kind = 'full') AS fulls, sum(point.kind = 'incremental') AS incrementals,
               vm.first_point, vm.newest_point, vm.stored_bytes, vm.vm_id
        FROM vm JOIN point USING (vm_id) GROUP BY vm.vm_id ORDER BY vm.vm_name
        """,
    ),
    "newest_points": (
        "The newest point of each VM",
        "With its age, oldest first.",
        """
        SELECT vm.vm_name, vm.newest_point, vm.age_days, point.kind, point.stored_bytes, point.backup_id
        FROM vm JOIN point ON point.vm_id = vm.vm_id AND point.point = vm.newest_point
        ORDER BY vm.newest_point
        """,
    ),
    "vms_without_a_backup": (
        "VMs without a recent backup",
        "VMs whose newest point is older than this many days (default: 1).",
        """
        SELECT vm_name, newest_point, age_days, points, vm_id FROM vm
        WHERE age_days > coalesce(CAST(nullif(:days, '') AS REAL), 1) ORDER BY age_days DESC
        """,
    ),
    "growth_per_day": (
        "Growth per day",
        "The bytes that the points of each day (UTC) store, and the running total.",
        """
        SELECT substr(point, 1, 10) AS day, count(*) AS points, sum(stored_bytes) AS stored_bytes,
               sum(sum(stored_bytes)) OVER (ORDER BY substr(point, 1, 10)) AS total_bytes
        FROM point GROUP BY day ORDER BY day DESC
        """,
    ),
    "chain_lengths": (
        "Chains of the newest points",
        "How many streams a restore of each disk reads, longest first. Without a length, the chain is broken.",
        """
        SELECT vm.vm_name, stream.name AS disk, vm.newest_point, chain.length, chain.stored_bytes, stream.disk_id
        FROM vm JOIN point ON point.vm_id = vm.vm_id AND point.point = vm.newest_point
        JOIN stream USING (backup_id) LEFT JOIN chain USING (stream_id)
        ORDER BY chain.length IS NULL DESC, chain.length DESC, vm.vm_name
        """,
    ),
    "largest_streams": (
        "The largest streams",
        "The streams that store the most bytes.",
        """
        SELECT point.vm_name, stream.name AS disk, point.point, stream.kind, stream.blob_size,
               stream.data_bytes, round(1.0 * stream.data_bytes / nullif(stream.blob_size, 0), 1) AS ratio,
               stream.stream_id
        FROM stream JOIN point USING (backup_id) ORDER BY stream.blob_size DESC LIMIT 100
        """,
    ),
    "streams_by_kind": (
        "Streams by kind",
        "The number and sizes of full and incremental streams.",
        """
        SELECT kind, count(*) AS streams, sum(blob_size) AS stored_bytes, sum(data_bytes) AS data_bytes,
               sum(zero_bytes) AS zero_bytes, round(avg(blob_size)) AS average_bytes
        FROM stream GROUP BY kind ORDER BY stored_bytes DESC
        """,
    ),
    "fulls_and_why": (
        "Full backups and their reasons",
        "Why backups, or single disks in them, are not incremental.",
        """
        SELECT point.point, point.vm_name, stream.name AS disk,
               coalesce(stream.reason, point.reason) AS reason, stream.blob_size, point.backup_id
        FROM stream JOIN point USING (backup_id) WHERE stream.kind = 'full' ORDER BY point.point DESC
        """,
    ),
    "external_blobs": (
        "External blobs",
        "Streams that are stored externally. The repository holds only their index and record, unless you imported the "
        "data again.",
        """
        SELECT point.vm_name, stream.name AS disk, point.point, stream.kind, stream.external, stream.blob_size,
               stream.stream_id
        FROM stream JOIN point USING (backup_id) WHERE stream.external IS NOT NULL ORDER BY point.point DESC
        """,
    ),
    "left_out_disks": (
        "Disks that backups leave out",
        "Disks that the newest point of a VM does not hold, and the reasons.",
        """
        SELECT vm.vm_name, left_out.name AS disk, left_out.reason, vm.newest_point, left_out.disk_id
        FROM vm JOIN point ON point.vm_id = vm.vm_id AND point.point = vm.newest_point
        JOIN left_out USING (backup_id) ORDER BY vm.vm_name, disk
        """,
    ),
    "proven_points": (
        "Points with a drill",
        "The last 'pitr drill' of each point, newest first, and its findings.",
        """
        SELECT point.vm_name, point.point, drill.time, drill.ok, drill.image, drill.boot, drill.duration_ms,
               (SELECT group_concat(finding.disk_name || ': ' || finding.message, '; ') FROM finding
                WHERE finding.drill = drill.name AND finding.ok = 0) AS failures, drill.message, drill.backup_id
        FROM drill LEFT JOIN point USING (backup_id)
        WHERE drill.time = (SELECT max(time) FROM drill AS later WHERE later.backup_id = drill.backup_id)
        ORDER BY drill.time DESC
        """,
    ),
    "damaged_points": (
        "Damaged points",
        "The points that pitr cannot restore completely, as far as it knows, and why.",
        """
        SELECT point.vm_name, point.point, stream.name AS disk, damage.message, damage.backup_id
        FROM damage LEFT JOIN point USING (backup_id)
        LEFT JOIN stream ON stream.backup_id = damage.backup_id AND stream.disk_id = damage.disk_id
        ORDER BY point.vm_name, point.point DESC, disk
        """,
    ),
    "vms_never_rehearsed": (
        "VMs without a successful drill",
        "VMs without a point that passed 'pitr drill'.",
        """
        SELECT vm_name, points, newest_point, vm_id FROM vm
        WHERE NOT EXISTS (SELECT 1 FROM drill WHERE drill.vm_id = vm.vm_id AND drill.ok) ORDER BY vm_name
        """,
    ),
}

#: All ready-made queries, in the order in which they are listed.
READY_QUERIES = tuple(
    ReadyQuery(
        name,
        title,
        description,
        textwrap.dedent(sql).strip("\n").rstrip(),
        ("days",) if ":days" in sql else (),
    )
    for name, (title, description, sql) in _QUERIES.items()
)


def named(name: str) -> ReadyQuery | None:
    """Return the ready-made query with this name, or None."""
    return next((query for query in READY_QUERIES if query.name == name.replace("-", "_")), None)


def run(
    repository: Location, query: ReadyQuery, values: Mapping[str, str]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run the query on the catalog of the repository. Return the names of the columns, and the rows.

    Raises UsageError for a value that the query does not have, and the errors of Repository.open.
    """
    unknown = sorted(values.keys() - set(query.parameters))
    if unknown:
        known = ", ".join(query.parameters) or "none"
        raise UsageError(f"the query {query.name} has no value {unknown[0]!r}", f"Its values: {known}.")
    with tempfile.TemporaryDirectory(prefix="pitr-catalog-") as folder:
        snapshot = Snapshot(repository, Path(folder) / "catalog.db", tables=False)
        with closing(sqlite.connect_read_only(snapshot.path)) as connection:
            connection.row_factory = None
            try:
                cursor = connection.execute(query.sql, dict.fromkeys(query.parameters, "") | dict(values))
                return [column[0] for column in cursor.description or ()], cursor.fetchall()
            except sqlite3.Error as error:
                raise UsageError(f"the query failed: {error}") from error
