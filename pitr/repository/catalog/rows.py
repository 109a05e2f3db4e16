# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversion of backups to rows of the catalog, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from pitr import times
from pitr.model import Backup, Cause, DiskSettings, Kind, LeftOut, Mode, Part, StoredObject, Stream, VMName


def point_row(backup: Backup, record_name: str, record: StoredObject) -> dict[str, Any]:
    """Return the row of a backup with its record's name, size and digest."""
    of_its_kind = backup.streams_of_its_kind
    return {
        "backup_id": backup.backup_id,
        "vm_id": backup.vm.id,
        "vm_name": backup.vm.name,
        "kind": backup.kind.value,
        "reason": backup.reason,
        "point": times.to_sortable(backup.point),
        "lo": times.to_sortable(backup.lo),
        "parent_id": backup.parent_id,
        "checkpoint_id": backup.checkpoint_id,
        "from_checkpoint_id": backup.from_checkpoint_id,
        "mode": backup.mode.value,
        "consistency": backup.consistency,
        "stored_bytes": backup.stored_bytes,
        "data_bytes": sum(stream.data_bytes for stream in backup.streams),
        "zero_bytes": sum(stream.zero_bytes for stream in backup.streams),
        "changed_data": sum(stream.data_bytes for stream in of_its_kind),
        "changed_zero": sum(stream.zero_bytes for stream in of_its_kind),
        "changed_stored": sum(stream.stored_bytes for stream in of_its_kind),
        "changed_size": sum(stream.size for stream in of_its_kind),
        "duration_ms": backup.duration_ms,
        "pitr_version": backup.pitr_version,
        "stands_for": backup.stands_for,
        "configuration_size": _size(backup.configuration),
        "configuration_digest": _digest(backup.configuration),
        "record_name": record_name,
        "record_size": record.size,
        "record_digest": record.digest,
    }


def stream_rows(backup: Backup) -> list[dict[str, Any]]:
    """Return the rows of a backup's streams."""
    return [
        {
            "stream_id": stream.stream_id,
            "backup_id": backup.backup_id,
            "disk_id": stream.disk_id,
            "name": stream.name,
            "kind": stream.kind.value,
            "reason": stream.reason,
            "size": stream.size,
            "parent_stream_id": stream.parent_stream_id,
            "frame_size": stream.frame_size,
            "data_bytes": stream.data_bytes,
            "zero_bytes": stream.zero_bytes,
            "extents": stream.extents,
            "blob_size": _size(stream.blob),
            "blob_digest": _digest(stream.blob),
            "index_size": stream.index.size,
            "index_digest": stream.index.digest,
            "index_copy_size": _size(stream.index_copy),
            "index_copy_digest": _digest(stream.index_copy),
            "changes": stream.changes,
            "parts": _parts_text(stream.parts),
            "format": stream.settings.format,
            "sparse": int(stream.settings.sparse),
            "interface": stream.settings.interface,
            "bootable": int(stream.settings.bootable),
            "active": int(stream.settings.active),
            "backup_enabled": int(stream.settings.backup_enabled),
            "storage_domain_id": stream.settings.storage_domain_id,
            "settings": json.dumps(stream.settings.more) if stream.settings.more else None,
            "note": stream.note,
            "external": stream.external,
            "position": position,
        }
        for position, stream in enumerate(backup.streams)
    ]


def left_out_rows(backup: Backup) -> list[dict[str, Any]]:
    """Return the rows of the disks that a backup does not include."""
    return [
        {
            "backup_id": backup.backup_id,
            "disk_id": disk.disk_id,
            "name": disk.name,
            "reason": disk.reason,
            "cause": disk.cause.value,
        }
        for disk in backup.left_out
    ]


def backup_from(
    point: sqlite3.Row, streams: Iterable[sqlite3.Row], left_out: Iterable[sqlite3.Row]
) -> Backup:
    """Return the backup of these rows. Raises IndexError, TypeError and ValueError for damaged rows."""
    return Backup(
        backup_id=point["backup_id"],
        vm=VMName(point["vm_id"], point["vm_name"]),
        kind=Kind(point["kind"]),
        reason=point["reason"],
        point=times.from_text(point["point"]),
        lo=times.from_text(point["lo"]),
        parent_id=point["parent_id"],
        checkpoint_id=point["checkpoint_id"],
        from_checkpoint_id=point["from_checkpoint_id"],
        mode=Mode(point["mode"]),
        consistency=point["consistency"],
        streams=tuple(_stream_from(stream) for stream in streams),
        left_out=tuple(
            LeftOut(disk["disk_id"], disk["name"], disk["reason"], Cause(disk["cause"])) for disk in left_out
        ),
        duration_ms=point["duration_ms"],
        pitr_version=point["pitr_version"],
        stands_for=point["stands_for"],
        configuration=_object(point["configuration_size"], point["configuration_digest"]),
    )


def _stream_from(row: sqlite3.Row) -> Stream:
    return Stream(
        stream_id=row["stream_id"],
        disk_id=row["disk_id"],
        name=row["name"],
        kind=Kind(row["kind"]),
        reason=row["reason"],
        size=row["size"],
        parent_stream_id=row["parent_stream_id"],
        frame_size=row["frame_size"],
        data_bytes=row["data_bytes"],
        zero_bytes=row["zero_bytes"],
        extents=row["extents"],
        blob=_object(row["blob_size"], row["blob_digest"]),
        index=StoredObject(row["index_size"], row["index_digest"]),
        settings=DiskSettings(
            format=row["format"],
            sparse=bool(row["sparse"]),
            interface=row["interface"],
            bootable=bool(row["bootable"]),
            active=bool(row["active"]),
            backup_enabled=bool(row["backup_enabled"]),
            storage_domain_id=row["storage_domain_id"],
            **_more_settings(row["settings"]),
        ),
        note=row["note"],
        external=row["external"],
        changes=row["changes"],
        parts=_parts_from(row["parts"]),
        index_copy=_object(row["index_copy_size"], row["index_copy_digest"]),
    )


def _size(stored: StoredObject | None) -> int | None:
    return None if stored is None else stored.size


def _digest(stored: StoredObject | None) -> str | None:
    return None if stored is None else stored.digest


def _object(size: int | None, digest: str | None) -> StoredObject | None:
    return None if size is None or digest is None else StoredObject(size, digest)


def _parts_text(parts: tuple[Part, ...]) -> str | None:
    listed = [
        [part.disk_id, part.stream_id, part.live_bytes, part.blob.size, part.blob.digest] for part in parts
    ]
    return json.dumps(listed) if listed else None


def _parts_from(stored: str | None) -> tuple[Part, ...]:
    listed = json.loads(stored) if stored is not None else []
    return tuple(
        Part(disk_id, stream_id, live, StoredObject(size, digest))
        for disk_id, stream_id, live, size, digest in listed
    )


def _more_settings(stored: str | None) -> dict[str, Any]:
    settings = json.loads(stored) if stored is not None else {}
    if not isinstance(settings, dict):
        raise ValueError("the settings of a disk are not an object")
    return settings
