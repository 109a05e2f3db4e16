# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of drills, stored beside the points (schema/drill.schema.json).

An object's name has the time and the result, so that a list of points need not read the objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime

from pitr import times
from pitr.errors import FormatError
from pitr.model import Backup
from pitr.repository import canonical, drilled_boot, names
from pitr.repository.drilled_boot import Boot
from pitr.repository.store import ObjectMissing, Store
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "drill.schema.json"
#: The check that reads all data of a disk.
DIGESTS = "digests"
#: The results in the names of objects. A drill of `_OK` read all data; a boot reads only what the guest needs.
_OK, _BOOTED, _UNSURE, _FAILED = "ok", "booted", "unsure", "failed"


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
    """The result of a drill that ended at `time`.

    `image` means restored to images instead of only read. With `boot`, the guest read only the data that it needed.
    """

    backup_id: str
    vm_id: str
    time: datetime
    image: bool
    duration_ms: int
    disks: tuple[DiskFindings, ...]
    boot: Boot | None = None

    @property
    def ok(self) -> bool:
        return all(disk.ok for disk in self.disks) and (self.boot is None or self.boot.result == "passed")

    @property
    def is_unsure(self) -> bool:
        """Whether no check failed, but the boot proved nothing."""
        return all(disk.ok for disk in self.disks) and self.boot is not None and self.boot.result == "unsure"

    @property
    def outcome(self) -> str:
        """The result in the name of the drill's object."""
        if not self.ok:
            return _UNSURE if self.is_unsure else _FAILED
        return _OK if self.boot is None or self._read_all else _BOOTED

    @property
    def _read_all(self) -> bool:
        return all(any(finding.what == DIGESTS for finding in disk.findings) for disk in self.disks)


@dataclass(frozen=True, slots=True)
class Proven:
    """The time and result of a point's last drill. `complete` means that it read all data."""

    time: datetime
    ok: bool
    complete: bool = True


@dataclass(frozen=True, slots=True)
class LastBoot:
    """The last boot of a point: the name of the drill's object, its time, and the result."""

    name: str
    time: datetime
    boot: Boot


def add(store: Store, drill: Drill) -> str:
    """Store the result of a drill, and return its object's name. Raises RepositoryError."""
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
    if drill.boot is not None:
        document["boot"] = drilled_boot.document(drill.boot)
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    file_name = f"{times.to_object_name(drill.time)}-{uuid.uuid4().hex[:8]}-{drill.outcome}.json"
    name = f"{names.drills_of(drill.vm_id, drill.backup_id)}/{file_name}"
    store.create(name, stored)
    return name


def listed(store: Store, vm_id: str | None = None) -> Iterator[tuple[str, str, Proven]]:
    """Yield the time and result of each drill of a VM's points (None: of all VMs), with the ids of VM and backup.

    A boot that left pitr unsure is no result.
    """
    for name in store.list(names.drills_of(vm_id)):
        *_, of_vm, backup_id, file_name = name.split("/")
        time = times.from_object_name(file_name.partition("-")[0])
        outcome = file_name.removesuffix(".json").rpartition("-")[2]
        if time is not None and outcome != _UNSURE:
            yield of_vm, backup_id, Proven(time, outcome in (_OK, _BOOTED), outcome != _BOOTED)


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
        boot=drilled_boot.of(document.get("boot")),
    )


def last_boot(store: Store, vm_id: str, backup_id: str) -> LastBoot | None:
    """Return the point's last drill that booted it; None without one. Raises RepositoryError.

    Unreadable drills are skipped.
    """
    for name in sorted(store.list(names.drills_of(vm_id, backup_id)), reverse=True):
        with suppress(FormatError, ObjectMissing):
            drill = read(store, name)
            if drill.boot is not None:
                return LastBoot(name, drill.time, drill.boot)
    return None
