# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of drills, stored beside the points (schema/drill.schema.json).

An object's name has the time and the result, so that a list of points need not read the objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from pitr import times
from pitr.errors import FormatError
from pitr.model import Backup
from pitr.repository import canonical, names
from pitr.repository.store import Store
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "drill.schema.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `ok` is None if the check cannot decide."""

    what: str
    ok: bool | None
    message: str


@dataclass(frozen=True, slots=True)
class DiskFindings:
    """The results of all checks of a disk."""

    disk_id: str
    name: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok is not False for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Drill:
    """The result of a drill that ended at `time`. `image` means restored to images instead of only read."""

    backup_id: str
    vm_id: str
    time: datetime
    image: bool
    duration_ms: int
    disks: tuple[DiskFindings, ...]

    @property
    def ok(self) -> bool:
        return all(disk.ok for disk in self.disks)


@dataclass(frozen=True, slots=True)
class Proven:
    """The time and result of a point's last drill."""

    time: datetime
    ok: bool


def add(store: Store, drill: Drill) -> None:
    """Store the result of a drill. Raises RepositoryError."""
    document = {
        "format": FORMAT,
        "backup_id": drill.backup_id,
        "vm_id": drill.vm_id,
        "time": times.to_text(drill.time),
        "ok": drill.ok,
        "image": drill.image,
        "duration_ms": drill.duration_ms,
        "disks": [
            {**asdict(disk), "findings": [asdict(each) for each in disk.findings]} for disk in drill.disks
        ],
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    result = "ok" if drill.ok else "failed"
    name = f"{times.to_object_name(drill.time)}-{uuid.uuid4().hex[:8]}-{result}.json"
    store.create(f"{names.drills_of(drill.vm_id, drill.backup_id)}/{name}", stored)


def listed(store: Store, vm_id: str | None = None) -> Iterator[tuple[str, str, Proven]]:
    """Yield the time and result of each drill of a VM's points (None: of all VMs), with the ids of VM and backup."""
    for name in store.list(names.drills_of(vm_id)):
        *_, of_vm, backup_id, file_name = name.split("/")
        time = times.from_object_name(file_name.partition("-")[0])
        if time is not None:
            yield of_vm, backup_id, Proven(time, file_name.endswith("-ok.json"))


def last_proven(store: Store, vm_id: str | None = None) -> dict[str, Proven]:
    """Return the last drill of each point, by backup id; of all VMs for None."""
    last: dict[str, Proven] = {}
    for _, backup_id, proven in listed(store, vm_id):
        if backup_id not in last or last[backup_id].time < proven.time:
            last[backup_id] = proven
    return last


def remove_of(store: Store, backups: Iterable[Backup]) -> None:
    """Delete the drills of points that are removed."""
    for backup in backups:
        for name in list(store.list(names.drills_of(backup.vm.id, backup.backup_id))):
            store.delete(name)


def read(store: Store, name: str) -> Drill:
    """Read the result of a drill by its object's name. Raises FormatError for a damaged one, RepositoryError."""
    document = canonical.decode(store.read(name, limit=canonical.MAX_SIZE), _SCHEMA)
    if document["format"] != FORMAT:
        raise FormatError(f"{name} needs a newer pitr")
    return Drill(
        backup_id=document["backup_id"],
        vm_id=document["vm_id"],
        time=times.from_text(document["time"]),
        image=document["image"],
        duration_ms=document["duration_ms"],
        disks=tuple(
            DiskFindings(
                disk["disk_id"], disk["name"], tuple(Finding(**finding) for finding in disk["findings"])
            )
            for disk in document["disks"]
        ),
    )
