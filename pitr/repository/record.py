# SPDX-License-Identifier: GPL-2.0-or-later
"""Records: the JSON objects that commit backups (schema/record.schema.json)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pitr import times
from pitr.errors import FormatError
from pitr.model import (
    MORE_SETTINGS,
    Backup,
    Cause,
    DiskSettings,
    Kind,
    LeftOut,
    Mode,
    Part,
    Record,
    StoredObject,
    Stream,
    VMName,
)
from pitr.repository import canonical

FORMAT = 1
_SCHEMA = "record.schema.json"


def encode(record: Record) -> bytes:
    """Return the stored form of a record."""
    backup = record.backup
    document = {
        "format": FORMAT,
        "backup_id": backup.backup_id,
        "vm": asdict(backup.vm),
        "kind": backup.kind.value,
        "reason": backup.reason,
        "point": times.to_text(backup.point),
        "lo": times.to_text(backup.lo),
        "parent_id": backup.parent_id,
        "checkpoint_id": backup.checkpoint_id,
        "from_checkpoint_id": backup.from_checkpoint_id,
        "mode": backup.mode.value,
        "consistency": backup.consistency,
        "disks": [_stream_document(stream) for stream in backup.streams],
        "left_out": [_left_out_document(disk) for disk in backup.left_out],
        "configuration": None
        if record.configuration is None
        else {"type": "ovf", "data": record.configuration},
        "duration_ms": backup.duration_ms,
        "pitr_version": backup.pitr_version,
    }
    if backup.stands_for is not None:
        document["stands_for"] = backup.stands_for
    return canonical.encode(document)


def decode(stored: bytes) -> Record:
    """Read a record. Raises FormatError if it is damaged or contradicts itself."""
    document = canonical.decode(stored, _SCHEMA)
    configuration = document["configuration"]
    backup = Backup(
        backup_id=document["backup_id"],
        vm=VMName(**document["vm"]),
        kind=Kind(document["kind"]),
        reason=document["reason"],
        point=times.from_text(document["point"]),
        lo=times.from_text(document["lo"]),
        parent_id=document["parent_id"],
        checkpoint_id=document["checkpoint_id"],
        from_checkpoint_id=document["from_checkpoint_id"],
        mode=Mode(document["mode"]),
        consistency=document["consistency"],
        streams=tuple(_stream(disk) for disk in document["disks"]),
        # In the order of the catalog, so that the two can be compared.
        left_out=tuple(
            sorted((_left_out(disk) for disk in document["left_out"]), key=lambda disk: disk.disk_id)
        ),
        duration_ms=document["duration_ms"],
        pitr_version=document["pitr_version"],
        stands_for=document.get("stands_for"),
    )
    check(backup)
    return Record(backup, None if configuration is None else configuration["data"])


def check(backup: Backup) -> None:
    """Raise FormatError if a record contradicts itself."""
    if backup.lo > backup.point:
        raise FormatError("the record's interval ends before it begins")
    disks = [stream.disk_id for stream in backup.streams]
    if len(set(disks)) != len(disks) or len({stream.stream_id for stream in backup.streams}) != len(disks):
        raise FormatError("the record has a disk or a stream twice")
    incremental = [stream for stream in backup.streams if stream.kind is Kind.INCREMENTAL]
    if bool(incremental) != (backup.kind is Kind.INCREMENTAL):
        raise FormatError(f"the record is {backup.kind}, which its streams contradict")
    if bool(incremental) != (backup.parent_id is not None):
        raise FormatError("the record's parent contradicts the kinds of its streams")
    if backup.stands_for is not None and backup.kind is not Kind.SYNTHETIC:
        raise FormatError(f"the record is {backup.kind}, but stands for another one")
    for stream in backup.streams:
        if (stream.parent_stream_id is None) == (stream.kind is Kind.INCREMENTAL):
            raise FormatError(f"the {stream.kind} stream {stream.stream_id} has a wrong parent")
        if stream.changes is not None and stream.kind is not Kind.INCREMENTAL:
            raise FormatError(f"the {stream.kind} stream {stream.stream_id} has changes")
        if stream.blob is None and (stream.external is not None or stream.index_copy is None):
            raise FormatError(f"the stream {stream.stream_id} has no blob")


#: Reasons in records of pitr versions that did not store the cause.
_CAUSES = {
    "not selected": Cause.CHOSEN,
    "excluded": Cause.CHOSEN,
    "the stream it is based on is lost": Cause.MISSING,
}


def _left_out_document(disk: LeftOut) -> dict[str, Any]:
    document = asdict(disk)
    # Early versions of pitr do not know this key.
    if disk.cause is Cause.UNABLE:
        del document["cause"]
    return document


def _left_out(document: dict[str, Any]) -> LeftOut:
    cause = document.get("cause") or _CAUSES.get(document["reason"], Cause.UNABLE)
    return LeftOut(**{**document, "cause": Cause(cause)})


#: Keys of a stream that are absent instead of null or empty.
_ONLY_IF_NEEDED = ("blob", "note", "external", "changes", "parts", "index_copy")


def _stream_document(stream: Stream) -> dict[str, Any]:
    document = {**asdict(stream), "kind": stream.kind.value}
    # Early versions of pitr do not know these keys.
    settings = stream.settings
    document["settings"] = {
        key: value
        for key, value in asdict(settings).items()
        if key not in MORE_SETTINGS or key in settings.more
    }
    document["parts"] = [asdict(part) for part in stream.parts]
    return {key: value for key, value in document.items() if key not in _ONLY_IF_NEEDED or value}


def _stream(document: dict[str, Any]) -> Stream:
    return Stream(
        **{
            **document,
            "kind": Kind(document["kind"]),
            "blob": _object(document.get("blob")),
            "index": StoredObject(**document["index"]),
            "index_copy": _object(document.get("index_copy")),
            "parts": tuple(
                Part(**{**part, "blob": StoredObject(**part["blob"])}) for part in document.get("parts", ())
            ),
            "settings": DiskSettings(**document["settings"]),
        }
    )


def _object(document: dict[str, Any] | None) -> StoredObject | None:
    return None if document is None else StoredObject(**document)
