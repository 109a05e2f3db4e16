# SPDX-License-Identifier: GPL-2.0-or-later
"""Records: the JSON objects that commit backups (schema/record.schema.json).

What the management of a repository needs is in the open: ids, times, kinds, sizes and digests. What describes the VM
and its disks to people is in one object, `private`, which a sealed repository can encrypt.
"""

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
    SealedName,
    StoredObject,
    Stream,
    VMName,
)
from pitr.repository import canonical

FORMAT = 2
_SCHEMA = "record.schema.json"
#: The only type of configuration: what the engine gives.
_OVF = "ovf"
_SEALED = "(sealed)"
_UNKNOWN_SETTINGS: dict[str, Any] = {
    "format": _SEALED,
    "sparse": True,
    "interface": None,
    "bootable": False,
    "active": True,
    "backup_enabled": True,
    "storage_domain_id": None,
}


def encode(backup: Backup) -> bytes:
    """Return the stored form of a backup's record."""
    document = {
        "format": FORMAT,
        "backup_id": backup.backup_id,
        "vm_id": backup.vm.id,
        "kind": backup.kind.value,
        "point": times.to_text(backup.point),
        "lo": times.to_text(backup.lo),
        "parent_id": backup.parent_id,
        "checkpoint_id": backup.checkpoint_id,
        "from_checkpoint_id": backup.from_checkpoint_id,
        "mode": backup.mode.value,
        "consistency": backup.consistency,
        "disks": [_stream_document(stream) for stream in backup.streams],
        "left_out": [{"disk_id": disk.disk_id, "cause": disk.cause.value} for disk in backup.left_out],
        "configuration": None
        if backup.configuration is None
        else {"type": _OVF, **asdict(backup.configuration)},
        "duration_ms": backup.duration_ms,
        "pitr_version": backup.pitr_version,
        "private": {
            "vm_name": backup.vm.name,
            "reason": backup.reason,
            "disks": [_private_of(stream) for stream in backup.streams],
            "left_out": [{"name": disk.name, "reason": disk.reason} for disk in backup.left_out],
        },
    }
    if backup.stands_for is not None:
        document["stands_for"] = backup.stands_for
    return canonical.encode(document)


def decode(stored: bytes) -> Backup:
    """Read a record. Raises FormatError if it is damaged or contradicts itself."""
    document = canonical.decode(stored, _SCHEMA)
    private = document["private"] if "private" in document else _unknown(document)
    configuration = document["configuration"]
    for key in ("disks", "left_out"):
        if len(document[key]) != len(private[key]):
            raise FormatError(f"the record describes {len(private[key])} of {len(document[key])} {key}")
    left_out = [
        LeftOut(open_["disk_id"], described["name"], described["reason"], Cause(open_["cause"]))
        for open_, described in zip(document["left_out"], private["left_out"], strict=True)
    ]
    backup = Backup(
        backup_id=document["backup_id"],
        vm=VMName(document["vm_id"], private["vm_name"]),
        kind=Kind(document["kind"]),
        reason=private["reason"],
        point=times.from_text(document["point"]),
        lo=times.from_text(document["lo"]),
        parent_id=document["parent_id"],
        checkpoint_id=document["checkpoint_id"],
        from_checkpoint_id=document["from_checkpoint_id"],
        mode=Mode(document["mode"]),
        consistency=document["consistency"],
        streams=tuple(
            _stream(open_, described)
            for open_, described in zip(document["disks"], private["disks"], strict=True)
        ),
        # In the order of the catalog, so that the two can be compared.
        left_out=tuple(sorted(left_out, key=lambda disk: disk.disk_id)),
        duration_ms=document["duration_ms"],
        pitr_version=document["pitr_version"],
        stands_for=document.get("stands_for"),
        configuration=None
        if configuration is None
        else StoredObject(configuration["size"], configuration["digest"]),
    )
    check(backup)
    return backup


def _unknown(document: dict[str, Any]) -> dict[str, Any]:
    """Return what stands for the private part of a sealed record: ids in the place of names."""
    return {
        "vm_name": SealedName(document["vm_id"]),
        "reason": None,
        "disks": [
            {"name": SealedName(disk["disk_id"]), "reason": None, "settings": _UNKNOWN_SETTINGS}
            for disk in document["disks"]
        ],
        "left_out": [
            {"name": SealedName(disk["disk_id"]), "reason": _SEALED} for disk in document["left_out"]
        ],
    }


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


#: Keys of a stream that are absent instead of null or empty.
_ONLY_IF_NEEDED = ("blob", "external", "changes", "parts", "index_copy")
#: What the private object has of a stream.
_PRIVATE = ("name", "reason", "settings", "note")


def _stream_document(stream: Stream) -> dict[str, Any]:
    document = {**asdict(stream), "kind": stream.kind.value, "parts": [asdict(part) for part in stream.parts]}
    return {
        key: value
        for key, value in document.items()
        if key not in _PRIVATE and (value or key not in _ONLY_IF_NEEDED)
    }


def _private_of(stream: Stream) -> dict[str, Any]:
    settings = stream.settings
    document: dict[str, Any] = {
        "name": stream.name,
        "reason": stream.reason,
        "settings": {
            key: value
            for key, value in asdict(settings).items()
            if key not in MORE_SETTINGS or key in settings.more
        },
    }
    if stream.note is not None:
        document["note"] = stream.note
    return document


def _stream(document: dict[str, Any], private: dict[str, Any]) -> Stream:
    return Stream(
        **{
            **document,
            **private,
            "kind": Kind(document["kind"]),
            "blob": _object(document.get("blob")),
            "index": StoredObject(**document["index"]),
            "index_copy": _object(document.get("index_copy")),
            "parts": tuple(
                Part(**{**part, "blob": StoredObject(**part["blob"])}) for part in document.get("parts", ())
            ),
            "settings": DiskSettings(**private["settings"]),
        }
    )


def _object(document: dict[str, Any] | None) -> StoredObject | None:
    return None if document is None else StoredObject(**document)
