# SPDX-License-Identifier: GPL-2.0-or-later
"""Describe the catalog for Datasette: descriptions, facets and the ready-made queries."""

from __future__ import annotations

from typing import Any

from pitr.jobs.serve.catalog_site.ready_queries import READY_QUERIES

#: The database's name in all addresses.
DATABASE = "catalog"

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
            "data_bytes": "Bytes of the disks in data extents of its streams",
            "zero_bytes": "Bytes of the disks in zero extents of its streams",
            "changed_data": "The same without disks that are full in an incremental point",
            "changed_zero": "The same without disks that are full in an incremental point",
            "changed_stored": "Bytes of their blobs",
            "changed_size": "Bytes of these disks",
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
            "boot": "The result of a drill that booted the point",
            "evidence": "What decided the boot",
        },
    },
    "screen": {
        "description": "The screens of guests that 'pitr drill --boot' booted.",
        "sort_desc": "time",
        "facets": ["boot"],
        "size": 10,
        "columns": {"time": "The end of the drill (UTC)", "picture": "The last picture on the screen"},
    },
    "finding": {
        "description": "The findings of drills, disk by disk.",
        "facets": ["what", "ok"],
        "columns": {"ok": "1: good; 0: failed; empty: unknown"},
    },
    "damage": {
        "description": "Known damage, and the points that it loses.",
        "columns": {"disk_id": "The lost disk; empty: all disks", "finding": "Its object in the repository"},
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
                "description": "Tables and queries are also available as JSON and CSV: there, times are UTC and sizes "
                "are bytes. Pages show times as 'pitr list' does, in the time zone of pitr.",
                "tables": _TABLES,
                "queries": {
                    query.name: {"title": query.title, "description": query.description, "sql": query.sql}
                    for query in READY_QUERIES
                },
            }
        },
    }
