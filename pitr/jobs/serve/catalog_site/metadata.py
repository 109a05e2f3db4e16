# SPDX-License-Identifier: GPL-2.0-or-later
"""What Datasette says of the catalog: descriptions, facets, and the questions that are asked of it again and again."""

from __future__ import annotations

from typing import Any

#: The database's name in all addresses.
DATABASE = "catalog"

_QUERIES: dict[str, tuple[str, str, str]] = {
    "points_per_vm": (
        "Points per VM",
        "How many points each VM has, of what kinds, since when, and what they take.",
        """
        SELECT vm.vm_name, vm.points,
               sum(point.kind = 'full') AS fulls, sum(point.kind = 'incremental') AS incrementals,
               vm.first_point, vm.newest_point, vm.stored_bytes, vm.vm_id
        FROM vm JOIN point USING (vm_id) GROUP BY vm.vm_id ORDER BY vm.vm_name
        """,
    ),
    "newest_points": (
        "The newest point of each VM",
        "With its age; the oldest first.",
        """
        SELECT vm.vm_name, vm.newest_point, vm.age_days, point.kind, point.stored_bytes, point.backup_id
        FROM vm JOIN point ON point.vm_id = vm.vm_id AND point.point = vm.newest_point
        ORDER BY vm.newest_point
        """,
    ),
    "vms_without_a_backup": (
        "VMs without a backup for some days",
        "VMs whose newest point is older than this many days; 1 when nothing is filled in.",
        """
        SELECT vm_name, newest_point, age_days, points, vm_id FROM vm
        WHERE age_days > coalesce(CAST(nullif(:days, '') AS REAL), 1) ORDER BY age_days DESC
        """,
    ),
    "growth_per_day": (
        "Growth per day",
        "What the points of each day (UTC) have stored, and all that is still here up to it.",
        """
        SELECT substr(point, 1, 10) AS day, count(*) AS points, sum(stored_bytes) AS stored_bytes,
               sum(sum(stored_bytes)) OVER (ORDER BY substr(point, 1, 10)) AS total_bytes
        FROM point GROUP BY day ORDER BY day DESC
        """,
    ),
    "chain_lengths": (
        "Chains of the newest points",
        "How many streams a restore of each disk would read from, the longest first. No length: the chain is broken.",
        """
        SELECT vm.vm_name, stream.name AS disk, vm.newest_point, chain.length, chain.stored_bytes, stream.disk_id
        FROM vm JOIN point ON point.vm_id = vm.vm_id AND point.point = vm.newest_point
        JOIN stream USING (backup_id) LEFT JOIN chain USING (stream_id)
        ORDER BY chain.length IS NULL DESC, chain.length DESC, vm.vm_name
        """,
    ),
    "largest_streams": (
        "The largest streams",
        "What takes the most room.",
        """
        SELECT point.vm_name, stream.name AS disk, point.point, stream.kind, stream.blob_size,
               stream.data_bytes, round(1.0 * stream.data_bytes / nullif(stream.blob_size, 0), 1) AS ratio,
               stream.stream_id
        FROM stream JOIN point USING (backup_id) ORDER BY stream.blob_size DESC LIMIT 100
        """,
    ),
    "streams_by_kind": (
        "Streams by kind",
        "Full and incremental streams, and what they take.",
        """
        SELECT kind, count(*) AS streams, sum(blob_size) AS stored_bytes, sum(data_bytes) AS data_bytes,
               sum(zero_bytes) AS zero_bytes, round(avg(blob_size)) AS average_bytes
        FROM stream GROUP BY kind ORDER BY stored_bytes DESC
        """,
    ),
    "fulls_and_why": (
        "Full backups and why",
        "Why backups, or disks of them, were not incremental.",
        """
        SELECT point.point, point.vm_name, stream.name AS disk,
               coalesce(stream.reason, point.reason) AS reason, stream.blob_size, point.backup_id
        FROM stream JOIN point USING (backup_id) WHERE stream.kind = 'full' ORDER BY point.point DESC
        """,
    ),
    "external_blobs": (
        "Blobs that lie elsewhere",
        "Streams whose data was piped out: the repository holds their index and record only, unless it was imported "
        "again.",
        """
        SELECT point.vm_name, stream.name AS disk, point.point, stream.kind, stream.external, stream.blob_size,
               stream.stream_id
        FROM stream JOIN point USING (backup_id) WHERE stream.external IS NOT NULL ORDER BY point.point DESC
        """,
    ),
    "left_out_disks": (
        "Disks that backups leave out",
        "Disks that the newest point of a VM does not hold, and why.",
        """
        SELECT vm.vm_name, left_out.name AS disk, left_out.reason, vm.newest_point, left_out.disk_id
        FROM vm JOIN point ON point.vm_id = vm.vm_id AND point.point = vm.newest_point
        JOIN left_out USING (backup_id) ORDER BY vm.vm_name, disk
        """,
    ),
    "proven_points": (
        "Points that were rehearsed",
        "The last rehearsal of each VM's points by 'pitr drill', newest first, and what it found.",
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
        "VMs that were never rehearsed",
        "No point of theirs was proven by 'pitr drill'.",
        """
        SELECT vm_name, points, newest_point, vm_id FROM vm
        WHERE NOT EXISTS (SELECT 1 FROM drill WHERE drill.vm_id = vm.vm_id AND drill.ok) ORDER BY vm_name
        """,
    ),
}

_TABLES: dict[str, dict[str, Any]] = {
    "point": {
        "description": "Every point in time that can be restored: one VM with its disks.",
        "sort_desc": "point",
        "label_column": "point",
        "facets": ["vm_name", "kind", "mode", "consistency"],
        "columns": {
            "point": "The latest moment that the state can be of (UTC): the label that --at compares with",
            "lo": "The earliest moment that the state can be of",
            "reason": "Why it is a full",
            "parent_id": "The backup that it stands on",
            "checkpoint_id": "The engine's checkpoint that it made",
            "from_checkpoint_id": "The engine's checkpoint that its changes start from",
            "mode": "How the engine took it: live, hybrid (from a snapshot), cold, or imported",
            "stored_bytes": "Its blobs and nothing else",
            "record_digest": "BLAKE3 of its commit record",
        },
    },
    "stream": {
        "description": "One disk in one backup.",
        "label_column": "name",
        "facets": ["kind", "name", "format", "external"],
        "columns": {
            "name": "Of the disk",
            "size": "Of the disk",
            "reason": "Why this disk is full",
            "parent_stream_id": "The stream that an incremental stands on",
            "data_bytes": "Of the disk, in the stream's data extents",
            "zero_bytes": "Of the disk, in the stream's zero extents",
            "extents": "Rows of the extent index",
            "blob_size": "Bytes as stored",
            "external": "The blob was piped out like this; it is not in the repository unless it was imported again",
            "note": "What the source of an import could not tell",
            "format": "Of the disk on the engine; cow is qcow2",
        },
    },
    "left_out": {
        "description": "Disks of VMs that backups do not hold, and why.",
        "facets": ["reason"],
    },
    "drill": {
        "description": "Rehearsals of restores by 'pitr drill'.",
        "sort_desc": "time",
        "facets": ["ok", "image"],
        "columns": {
            "ok": "1: proven; 0: something failed; empty: what came of it cannot be read",
            "image": "1: restored to images; 0: only read",
            "time": "When it ended (UTC)",
        },
    },
    "finding": {
        "description": "What rehearsals looked at, disk by disk.",
        "facets": ["what", "ok"],
        "columns": {"ok": "1: well; 0: failed; empty: nothing can be told"},
    },
    "chain": {
        "description": "For each stream, what it stands on. A stream that is not here stands on one that is gone.",
        "sort_desc": "length",
        "columns": {
            "length": "Streams from the full to this one",
            "stored_bytes": "Of all of them",
            "full_id": "The full that the chain begins with",
        },
    },
    "vm": {
        "description": "Every VM that there are points of.",
        "sort_desc": "age_days",
        "columns": {"age_days": "Days since its newest point"},
    },
}


def metadata(repository: str) -> dict[str, Any]:
    """For Datasette; `repository` is named in the title."""
    return {
        "title": f"pitr: the catalog of {repository}",
        "description": "Points, disks and streams of the repository. This is a copy that is brought up to date when "
        "points come or go; nothing can be changed here.",
        "databases": {
            DATABASE: {
                "description": "Each table and query comes as JSON and CSV, too. Times are UTC, sizes are bytes.",
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
