# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON documents of a rollback (docs/json.md). Keys may be added, never removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pitr.jobs.documents import vm_document
from pitr.jobs.rollback.discard import DiscardedDisk
from pitr.jobs.rollback.result import RolledBack


def rolled_back(result: RolledBack) -> dict[str, Any]:
    """Return the document of `pitr rollback`."""
    undo = result.undo_point
    return {
        "undo_point": undo.backup_id if undo is not None else None,
        "point": result.point.backup_id,
        "vm": vm_document(result.point.vm),
        "in_place": result.in_place,
        "dry_run": result.dry_run,
        "disks": [
            {
                "disk_id": disk.disk_id,
                "name": disk.name,
                "differing_bytes": disk.differing_bytes,
                "bytes_written": disk.bytes_written,
                "bytes_zeroed": disk.bytes_zeroed,
                "duration_s": round(disk.duration_s, 3),
                "verified": disk.verified,
                "old_disk_id": disk.old_disk_id,
            }
            for disk in result.disks
        ],
    }


def discarded(removed: Sequence[DiscardedDisk], *, dry_run: bool) -> dict[str, Any]:
    """Return the document of `pitr rollback --discard-old`."""
    return {
        "dry_run": dry_run,
        "discarded": [{"disk_id": disk.disk_id, "name": disk.name, "size": disk.size} for disk in removed],
    }
