# SPDX-License-Identifier: GPL-2.0-or-later
"""Describe the catalog for Datasette: descriptions, facets and common queries."""

from __future__ import annotations

from typing import Any

#: The database's name in all addresses.
DATABASE = "catalog"

_QUERIES: dict[str, tuple[str, str, str]] = {
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
        SELECT point.vm_name, point.point, drill.time, drill.ok, drill.image, drill.duration_ms,
               (SELECT group_concat(finding.disk_name || ': ' || finding.message, '; ') FROM finding
                WHERE finding.drill = drill.name AND finding.ok = 0) AS failures, drill.message, drill.backup_id
        FROM drill LEFT JOIN point USING (backup_id)
        WHERE drill.time = (SELECT max(time) FROM drill AS later WHERE later.backup_id = drill.backup_id)
        ORDER BY drill.time DESC
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

_TABLES: dict[str, dict[str, Any]] = {
    "point": {
        "description": "All points: the moments that you can restore a VM with its disks to.",
        "sort_desc": "point",
        "label_column": "point",
        "facets": ["vm_name", "kind", "mode", "consistency"],
        "columns": {
            "point": "The latest possible moment of the state (UTC); --at compares with it",
            "lo": "The earliest possible moment of the state (UTC)",
            "reason": "Why the backup is a full",
            "parent_id": "The backup that it is based on",
            "checkpoint_id": "The engine's checkpoint of this backup",
            "from_checkpoint_id": "The engine's checkpoint that the backup started from",
            "mode": "How the engine took the backup: live, hybrid (from a snapshot), cold, or imported",
            "stored_bytes": "Bytes of its blobs",
            "record_digest": "BLAKE3 digest of its record",
        },
    },
    "stream": {
        "description": "One disk in one backup.",
        "label_column": "name",
        "facets": ["kind", "name", "format", "external"],
        "columns": {
            "name": "The name of the disk",
            "size": "The size of the disk",
            "reason": "Why the stream is a full",
            "parent_stream_id": "The stream that an incremental is based on",
            "data_bytes": "Bytes of the disk in data extents of the stream",
            "zero_bytes": "Bytes of the disk in zero extents of the stream",
            "extents": "Number of extents in the index",
            "blob_size": "Stored bytes",
            "external": "Compression of a blob that is stored externally (also if you imported it again)",
            "note": "What is unknown about an imported disk",
            "format": "Format of the disk on the engine; cow is qcow2",
        },
    },
    "left_out": {
        "description": "Disks of VMs that backups do not hold, and the reasons.",
        "facets": ["reason"],
    },
    "drill": {
        "description": "Restore drills by 'pitr drill'.",
        "sort_desc": "time",
        "facets": ["ok", "image"],
        "columns": {
            "ok": "1: passed; 0: failed; empty: the result is unreadable",
            "image": "1: restored to images; 0: only read",
            "time": "The end of the drill (UTC)",
        },
    },
    "finding": {
        "description": "The findings of drills, disk by disk.",
        "facets": ["what", "ok"],
        "columns": {"ok": "1: good; 0: failed; empty: unknown"},
    },
    "chain": {
        "description": "The chain of each stream. A stream that is missing here is based on a lost stream.",
        "sort_desc": "length",
        "columns": {
            "length": "Number of streams from the full to this one",
            "stored_bytes": "Stored bytes of all of them",
            "full_id": "The full at the start of the chain",
        },
    },
    "vm": {
        "description": "All VMs that have points.",
        "sort_desc": "age_days",
        "columns": {"age_days": "Days since its newest point"},
    },
}


def metadata(repository: str) -> dict[str, Any]:
    """Return Datasette's metadata; the title names the `repository`."""
    return {
        "title": f"pitr: the catalog of {repository}",
        "description": "Points, disks and streams of the repository. This is a read-only copy, which pitr updates when "
        "points are added or removed.",
        "databases": {
            DATABASE: {
                "description": "Tables and queries are also available as JSON and CSV. Times are UTC, sizes are bytes.",
                "tables": _TABLES,
                "queries": {
                    name: {"title": title, "description": description, "sql": _dedented(sql)}
                    for name, (title, description, sql) in _QUERIES.items()
                },
            }
        },
    }


def _dedented(sql: str) -> str:
    lines = sql.strip("\n").rstrip().splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines)
