# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage that a check found, stored beside the points (schema/finding.schema.json).

A finding stays until a check reads the same bytes again and finds them good. An object's name has the damaged
backup, disk and stream, so that a list of points need not read the objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pitr import times
from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup
from pitr.repository import canonical, names
from pitr.repository.damage import Damage
from pitr.repository.store import ObjectExists, Store, is_name
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "finding.schema.json"
#: At most this many damaged frames of a stream are stored one by one: a broken disk can damage millions.
_MOST_FRAMES = 64
_RECORD = "record"
#: The check that compares a point with the engine's disks; only the same check clears its findings.
AGAINST_ENGINE = "verify --against-engine"
#: What the names of its findings say instead of "blob".
ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class StoredFinding:
    """A stored finding, as the name of its object describes it. A record has neither disk nor stream.

    `what` is as in Damage, or ENGINE for a point that differs from the engine's disk.
    """

    name: str
    vm_id: str
    backup_id: str
    disk_id: str | None
    stream_id: str | None
    what: str
    kind: str
    start: int


@dataclass(frozen=True, slots=True)
class KnownDamage:
    """A stored finding with its content: `check` found `damage` at `time`.

    `point` is the point of the backup, if the finding is about its record and the catalog knew it.
    """

    finding: StoredFinding
    damage: Damage
    time: datetime
    check: str
    point: datetime | None = None


def add(
    store: Store, vm_id: str, check: str, found: Iterable[Damage], points: Mapping[str, datetime]
) -> None:
    """Store what `check` found. Findings that are stored already stay.

    `points` has the points of backups (by id) whose records are damaged, as far as they are known. Raises
    RepositoryError.
    """
    now = times.now()
    # An object that belongs to no backup is no part of a point, and without a configuration all disks are there.
    of_backups = [
        damage for damage in found if damage.backup_id is not None and damage.what != "configuration"
    ]
    for damage in _new(store, vm_id, check, of_backups):
        document: dict[str, Any] = {
            "format": FORMAT,
            "vm_id": vm_id,
            "backup_id": damage.backup_id,
            "disk_id": damage.disk_id,
            "stream_id": damage.stream_id,
            "kind": damage.kind,
            "what": damage.what,
            "message": damage.message,
            "start": damage.start,
            "length": damage.length,
            "points_lost": list(damage.points_lost),
            "time": times.to_text(now),
            "check": check,
            "pitr_version": __version__,
        }
        point = points.get(damage.backup_id or "") if damage.stream_id is None else None
        if point is not None:
            document["point"] = times.to_text(point)
        stored = canonical.encode(document)
        canonical.decode(stored, _SCHEMA)
        with suppress(ObjectExists):
            store.create(name_of(vm_id, damage, check), stored)


def _new(store: Store, vm_id: str, check: str, found: Sequence[Damage]) -> Iterator[Damage]:
    """Yield the findings that are not stored yet.

    A single finding of the whole blob stands for the frames of a stream beyond the first ones.
    """
    folders = {names.checks_of(vm_id, damage.backup_id) for damage in found}
    stored = [name for folder in folders if is_name(folder) for name in store.list(folder)]
    frames = Counter(
        finding.stream_id for name in stored if (finding := _parsed(name)) and finding.what == "frame"
    )
    more: Counter[str | None] = Counter()
    last: dict[str | None, Damage] = {}
    for damage in found:
        name = name_of(vm_id, damage, check)
        if not is_name(name) or name in stored:
            continue
        if damage.what == "frame" and frames[damage.stream_id] >= _MOST_FRAMES:
            last[damage.stream_id] = damage
            more[damage.stream_id] += 1
            continue
        frames[damage.stream_id] += damage.what == "frame"
        yield damage
    for stream_id, damage in last.items():
        message = f"{damage.message} ({more[stream_id]} more damaged frames are not stored one by one)"
        yield replace(damage, what="blob", message=message, start=0, length=None)


def name_of(vm_id: str, damage: Damage, check: str = "") -> str:
    """Return the name of the object for what `check` found."""
    folder = names.checks_of(vm_id, damage.backup_id)
    if damage.stream_id is None or damage.disk_id is None:
        return f"{folder}/{_RECORD}-{damage.kind}.json"
    what = ENGINE if check == AGAINST_ENGINE else damage.what
    return f"{folder}/{damage.disk_id}/{damage.stream_id}-{what}-{damage.kind}-{damage.start or 0}.json"


def found_in(store: Store, vm_id: str | None = None) -> list[StoredFinding]:
    """Return the findings of a VM (None: of all VMs) from the names of their objects. Raises RepositoryError."""
    return [finding for name in sorted(store.list(names.checks_of(vm_id))) if (finding := _parsed(name))]


def _parsed(name: str) -> StoredFinding | None:
    _, *folders, file_name = name.split("/")
    base, _, suffix = file_name.rpartition(".")
    if suffix != "json":
        return None
    if len(folders) == 2 and base.startswith(f"{_RECORD}-"):
        return StoredFinding(
            name, folders[0], folders[1], None, None, _RECORD, base.removeprefix(f"{_RECORD}-"), 0
        )
    parts = base.rsplit("-", 3)
    if len(folders) != 3 or len(parts) != 4 or not parts[3].isdecimal():
        return None
    vm_id, backup_id, disk_id = folders
    stream_id, what, kind, start = parts
    return StoredFinding(name, vm_id, backup_id, disk_id, stream_id, what, kind, int(start))


def read(store: Store, finding: StoredFinding) -> KnownDamage:
    """Read a finding. A damaged object still tells what its name says. Raises RepositoryError."""
    try:
        document = canonical.decode(store.read(finding.name, limit=canonical.MAX_SIZE), _SCHEMA)
    except FormatError:
        message = (
            f"{finding.what} of backup {finding.backup_id}: {finding.kind} (the finding itself is damaged)"
        )
        damage = Damage(
            finding.backup_id, finding.disk_id, finding.stream_id, "corrupt", "blob", message, finding.start
        )
        return KnownDamage(finding, damage, store.written(finding.name), "verify")
    damage = Damage(
        backup_id=document["backup_id"],
        disk_id=document["disk_id"],
        stream_id=document["stream_id"],
        kind=document["kind"],
        what=document["what"],
        message=document["message"],
        start=document["start"],
        length=document["length"],
        points_lost=tuple(document["points_lost"]),
    )
    point = times.from_text(document["point"]) if "point" in document else None
    return KnownDamage(finding, damage, times.from_text(document["time"]), document["check"], point)


def clear(store: Store, findings: Iterable[StoredFinding]) -> None:
    """Delete findings that a check of the same bytes did not find again. Raises RepositoryError."""
    for finding in findings:
        store.delete(finding.name)


def remove_of(store: Store, backups: Iterable[Backup]) -> None:
    """Delete the findings of points that are removed."""
    for backup in backups:
        for name in list(store.list(names.checks_of(backup.vm.id, backup.backup_id))):
            store.delete(name)


def remove_of_lost_records(store: Store, vm_id: str, known: Sequence[Backup], kept: Sequence[Backup]) -> None:
    """Delete the findings of backups that the catalog does not know, if they are older than all points `kept`.

    A lost record leaves only its finding, and no retention rule can see its point.
    """
    ids = {backup.backup_id for backup in known}
    first = min((backup.point for backup in kept), default=None)
    for finding in found_in(store, vm_id):
        if finding.backup_id not in ids:
            with suppress(RepositoryError):
                content = read(store, finding)
                if first is None or (content.point or content.time) < first:
                    store.delete(finding.name)
