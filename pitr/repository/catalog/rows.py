# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversion of backups to rows of the catalog's tables, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from pitr.model import (
    Backup,
    Cause,
    DiskSettings,
    LeftOut,
    Mode,
    Part,
    SealedName,
    StoredObject,
    Stream,
    VMName,
    known_name,
)
from pitr.repository.catalog.packed import (
    Packed,
    digest_text,
    id_text,
    kind_of,
    packed_digest,
    packed_id,
    packed_kind,
    packed_or_none,
    packed_time,
    text_or_none,
    time_of,
)


def point_row(backup: Backup, record: StoredObject) -> dict[str, Any]:
    """Return the row of a backup with its record's size and digest, without the columns `number` and `vm`."""
    of_its_kind = backup.streams_of_its_kind
    return {
        "backup_id": packed_id(backup.backup_id),
        "vm_name": known_name(backup.vm.name),
        "kind": packed_kind(backup.kind),
        "reason": backup.reason,
        "point": packed_time(backup.point),
        "lo": packed_time(backup.lo),
        "parent_id": packed_or_none(backup.parent_id),
        "checkpoint_id": packed_or_none(backup.checkpoint_id),
        "from_checkpoint_id": packed_or_none(backup.from_checkpoint_id),
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
        "stands_for": packed_or_none(backup.stands_for),
        "configuration_size": _size(backup.configuration),
        "configuration_digest": _digest(backup.configuration),
        "record_size": record.size,
        "record_digest": packed_digest(record.digest),
    }


def stream_row(stream: Stream) -> dict[str, Any]:
    """Return the row of a stream, without the columns `point`, `position` and `disk`."""
    settings = stream.settings
    return {
        "stream_id": packed_id(stream.stream_id),
        "name": known_name(stream.name),
        "kind": packed_kind(stream.kind),
        "reason": stream.reason,
        "size": stream.size,
        "parent_stream_id": packed_or_none(stream.parent_stream_id),
        "frame_size": stream.frame_size,
        "data_bytes": stream.data_bytes,
        "zero_bytes": stream.zero_bytes,
        "extents": stream.extents,
        "blob_size": _size(stream.blob),
        "blob_digest": _digest(stream.blob),
        "index_size": stream.index.size,
        "index_digest": packed_digest(stream.index.digest),
        "index_copy_size": _size(stream.index_copy),
        "index_copy_digest": _digest(stream.index_copy),
        "changes": stream.changes,
        "parts": _parts_text(stream.parts),
        "format": settings.format,
        "sparse": int(settings.sparse),
        "interface": settings.interface,
        "bootable": int(settings.bootable),
        "active": int(settings.active),
        "backup_enabled": int(settings.backup_enabled),
        "storage_domain_id": packed_or_none(settings.storage_domain_id),
        "settings": json.dumps(settings.more) if settings.more else None,
        "note": stream.note,
        "external": stream.external,
    }


def left_out_row(disk: LeftOut) -> dict[str, Any]:
    """Return the row of a disk that a backup does not include, without the columns `point` and `disk`."""
    return {"name": known_name(disk.name), "reason": disk.reason, "cause": disk.cause.value}


def backup_from(
    point: sqlite3.Row, streams: Iterable[sqlite3.Row], left_out: Iterable[sqlite3.Row]
) -> Backup:
    """Return the backup of these rows. `point` also has the column `vm_id`, the others `disk_id`.

    Raises IndexError, OverflowError, TypeError and ValueError for damaged rows.
    """
    return Backup(
        backup_id=id_text(point["backup_id"]),
        vm=vm_from(point["vm_id"], point["vm_name"]),
        kind=kind_of(point["kind"]),
        reason=point["reason"],
        point=time_of(point["point"]),
        lo=time_of(point["lo"]),
        parent_id=text_or_none(point["parent_id"]),
        checkpoint_id=text_or_none(point["checkpoint_id"]),
        from_checkpoint_id=text_or_none(point["from_checkpoint_id"]),
        mode=Mode(point["mode"]),
        consistency=point["consistency"],
        streams=tuple([_stream_from(stream) for stream in streams]),
        left_out=tuple(
            LeftOut(
                disk["disk_id"],
                _name_from(disk["disk_id"], disk["name"]),
                disk["reason"],
                Cause(disk["cause"]),
            )
            for disk in left_out
        ),
        duration_ms=point["duration_ms"],
        pitr_version=point["pitr_version"],
        stands_for=text_or_none(point["stands_for"]),
        configuration=_object(point["configuration_size"], point["configuration_digest"]),
    )


def _stream_from(row: sqlite3.Row) -> Stream:
    return Stream(
        stream_id=id_text(row["stream_id"]),
        disk_id=row["disk_id"],
        name=_name_from(row["disk_id"], row["name"]),
        kind=kind_of(row["kind"]),
        reason=row["reason"],
        size=row["size"],
        parent_stream_id=text_or_none(row["parent_stream_id"]),
        frame_size=row["frame_size"],
        data_bytes=row["data_bytes"],
        zero_bytes=row["zero_bytes"],
        extents=row["extents"],
        blob=_object(row["blob_size"], row["blob_digest"]),
        index=StoredObject(row["index_size"], digest_text(row["index_digest"])),
        settings=DiskSettings(
            format=row["format"],
            sparse=bool(row["sparse"]),
            interface=row["interface"],
            bootable=bool(row["bootable"]),
            active=bool(row["active"]),
            backup_enabled=bool(row["backup_enabled"]),
            storage_domain_id=text_or_none(row["storage_domain_id"]),
            **_more_settings(row["settings"]),
        ),
        note=row["note"],
        external=row["external"],
        changes=row["changes"],
        parts=_parts_from(row["parts"]),
        index_copy=_object(row["index_copy_size"], row["index_copy_digest"]),
    )


def vm_from(vm_id: str, name: str | None) -> VMName:
    """Return the VM of a row."""
    return VMName(vm_id, _name_from(vm_id, name))


def _name_from(owner_id: str, name: str | None) -> str:
    return SealedName(owner_id) if name is None else name


def _size(stored: StoredObject | None) -> int | None:
    return None if stored is None else stored.size


def _digest(stored: StoredObject | None) -> Packed | None:
    return None if stored is None else packed_digest(stored.digest)


def _object(size: int | None, digest: Packed | None) -> StoredObject | None:
    return None if size is None or digest is None else StoredObject(size, digest_text(digest))


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
