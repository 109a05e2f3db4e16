# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON documents that scripts depend on (docs/json.md): keys are only ever added."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pitr import times
from pitr.model import Backup, Stream

if TYPE_CHECKING:
    from pitr.jobs.restore.from_repository import Restored
    from pitr.jobs.verify.repository import Verified
    from pitr.repository.damage import Damage
    from pitr.repository.drills import Proven


def point(backup: Backup, proven: Proven | None = None) -> dict[str, Any]:
    """A point; `proven` is its last rehearsal, which only lists look up."""
    return {
        "backup_id": backup.backup_id,
        "vm": {"id": backup.vm.id, "name": backup.vm.name},
        "kind": backup.kind.value,
        "reason": backup.reason,
        "point": times.to_text(backup.point),
        "lo": times.to_text(backup.lo),
        "parent_id": backup.parent_id,
        "checkpoint_id": backup.checkpoint_id,
        "from_checkpoint_id": backup.from_checkpoint_id,
        "mode": backup.mode.value,
        "consistency": backup.consistency,
        "disks": [disk(stream) for stream in backup.streams],
        "left_out": [asdict(left_out) for left_out in backup.left_out],
        "stored_bytes": backup.stored_bytes,
        "duration_s": backup.duration_ms / 1000,
        "proven": {"time": times.to_text(proven.time), "ok": proven.ok} if proven is not None else None,
    }


def disk(stream: Stream) -> dict[str, Any]:
    return {
        "disk_id": stream.disk_id,
        "name": stream.name,
        "stream_id": stream.stream_id,
        "kind": stream.kind.value,
        "reason": stream.reason,
        "size": stream.size,
        "data_bytes": stream.data_bytes,
        "zero_bytes": stream.zero_bytes,
        "stored_bytes": stream.stored_bytes,
        "extents": stream.extents,
        "note": stream.note,
        "external": stream.external,
    }


def restored(disk: Restored) -> dict[str, Any]:
    return {**asdict(disk), "duration_s": round(disk.duration_s, 3)}


def damage(found: Damage) -> dict[str, Any]:
    return {**asdict(found), "points_lost": list(found.points_lost)}


def verified(result: Verified) -> dict[str, Any]:
    return {
        "ok": result.ok,
        "level": result.level,
        "checked": {
            "points": result.points,
            "streams": result.streams,
            "frames": result.frames,
            "bytes": result.bytes,
            "elsewhere": result.elsewhere,
        },
        "damage": [damage(found) for found in result.damage],
    }
