# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of `pitr files check`, stored beside the points (schema/content_check.schema.json).

An object's name has the time and the result, so that a status reads only the results of unusual points. There are no
names of files in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pitr import times
from pitr.errors import FormatError
from pitr.model import Backup
from pitr.repository import canonical, names
from pitr.repository.store import Store
from pitr.version import __version__

FORMAT = 1
_SCHEMA = "content_check.schema.json"
_MILLION = 1_000_000
_UNUSUAL = "-unusual.json"


@dataclass(frozen=True, slots=True)
class ContentCheck:
    """What a check of a point's files found at `time`.

    `files` names were looked at, all of the point if `complete`. Of `sampled` files, `misfits` have content that does
    not fit their type. `names` are like those that attackers' programs give. `usual_share` and `usual_names` are of
    earlier points, None if none was checked. `unusual` is a part of "content" and "names".
    """

    backup_id: str
    vm_id: str
    time: datetime
    files: int
    complete: bool
    sampled: int
    misfits: int
    names: int
    usual_share: float | None
    usual_names: int | None
    unusual: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of misfits in the sample."""
        return self.misfits / self.sampled if self.sampled else 0.0


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """A stored result, as the name of its object describes it."""

    name: str
    vm_id: str
    backup_id: str
    time: datetime
    is_unusual: bool


def add(store: Store, check: ContentCheck) -> None:
    """Store the result of a check. Raises RepositoryError."""
    usual = check.usual_share
    document = {
        "format": FORMAT,
        "backup_id": check.backup_id,
        "vm_id": check.vm_id,
        "time": times.to_text(check.time),
        "files": check.files,
        "complete": check.complete,
        "sampled": check.sampled,
        "misfits": check.misfits,
        "names": check.names,
        # Stored objects have no fractions.
        "usual_ppm": round(usual * _MILLION) if usual is not None else None,
        "usual_names": check.usual_names,
        "unusual": list(check.unusual),
        "pitr_version": __version__,
    }
    stored = canonical.encode(document)
    canonical.decode(stored, _SCHEMA)
    result = "unusual" if check.unusual else "usual"
    name = f"{times.to_object_name(check.time)}-{uuid.uuid4().hex[:8]}-{result}.json"
    store.create(f"{names.contents_of(check.vm_id, check.backup_id)}/{name}", stored)


def last_of_points(store: Store, vm_id: str | None = None) -> dict[str, StoredCheck]:
    """Return the last check of each point, by backup id; of all VMs for None. Reads only names."""
    last: dict[str, StoredCheck] = {}
    for check in _listed(store, vm_id):
        if check.backup_id not in last or last[check.backup_id].time < check.time:
            last[check.backup_id] = check
    return last


def _listed(store: Store, vm_id: str | None) -> Iterator[StoredCheck]:
    for name in store.list(names.contents_of(vm_id)):
        *folders, file_name = name.split("/")
        time = times.from_object_name(file_name.partition("-")[0])
        if time is not None and len(folders) == 3:
            yield StoredCheck(name, folders[1], folders[2], time, file_name.endswith(_UNUSUAL))


def read(store: Store, name: str) -> ContentCheck:
    """Read a result by its object's name. Raises FormatError for a damaged one, RepositoryError."""
    document = canonical.decode(store.read(name, limit=canonical.MAX_SIZE), _SCHEMA)
    if document["format"] != FORMAT:
        raise FormatError(f"{name} needs a newer pitr")
    if not 0 <= document["misfits"] <= document["sampled"]:
        raise FormatError(f"{name} has more misfits than files")
    usual = document["usual_ppm"]
    return ContentCheck(
        backup_id=document["backup_id"],
        vm_id=document["vm_id"],
        time=times.from_text(document["time"]),
        files=document["files"],
        complete=document["complete"],
        sampled=document["sampled"],
        misfits=document["misfits"],
        names=document["names"],
        usual_share=usual / _MILLION if usual is not None else None,
        usual_names=document["usual_names"],
        unusual=tuple(document["unusual"]),
    )


def remove_of(store: Store, backups: Iterable[Backup]) -> None:
    """Delete the results of points that are removed."""
    for backup in backups:
        for name in list(store.list(names.contents_of(backup.vm.id, backup.backup_id))):
            store.delete(name)
