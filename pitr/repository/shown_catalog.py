# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog that a host shows in lists before it has read all records: made of a snapshot.

It has a folder of its own, so that nothing of a snapshot comes into the catalog of the records. From the second list
on, all names are compared with those of the records; at first, only a large repository's are not.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pitr import times
from pitr.errors import FormatError, PitrError
from pitr.repository import catalog_snapshots, commit_notes, names
from pitr.repository.cached_catalog import CompletedCatalog
from pitr.repository.catalog import Catalog, overview
from pitr.repository.catalog_file import replace_catalog
from pitr.repository.catalog_snapshots import Taken
from pitr.repository.store import ObjectMissing, Store
from pitr.system.replace_file import replace_file

if TYPE_CHECKING:
    from pitr.repository.repository import Repository

#: A list of so many names takes so few requests that all names are compared at once.
_COMPARED_AT_ONCE = 5_000
#: An older file is made again, of a newer snapshot: to read the records of many days takes longer.
_OLD = timedelta(days=1)
#: A host's clock, which is in the name of the day of a note, differs by less than this from the store's.
_CLOCKS = timedelta(days=1)
#: The notes of so long a time are all there.
_NOTED = commit_notes.KEPT - 3 * _CLOCKS


def opened(repository: Repository) -> CompletedCatalog | None:
    """Return a catalog for lists, which the caller closes; None if there is no snapshot. Raises RepositoryError."""
    file = _file(repository)
    if file is None:
        return None
    completed, now = _opened(repository, file), times.now()
    try:
        if file.taken is not None and file.is_first and _suffices(repository, completed, file.taken):
            _complete_by_notes(completed, repository.store, file.taken)
            completed.is_whole()
        else:
            completed.whole()
        _note_completed(file, now)
    except BaseException:
        completed.close()
        raise
    return completed


def vms_named(repository: Repository, name: str) -> list[str]:
    """Return the ids of the VMs with this id or name, by a snapshot and the notes of later commits; none without one.

    Raises RepositoryError.
    """
    file = _file(repository)
    if file is None:
        return []
    with _opened(repository, file) as completed:
        now = times.now()
        base = file.taken or Taken(file.completed or now, frozenset())
        if now - base.begun < _NOTED:
            _complete_by_notes(completed, repository.store, base)
        else:
            completed.whole()
        _note_completed(file, now)
        return [vm.id for vm in completed.as_it_is.vms_named(name)]


@dataclass(frozen=True, slots=True)
class _File:
    """The file of the shown catalog. At `completed` it had all points. `taken`: it was just made."""

    path: Path
    completed: datetime | None
    taken: Taken | None

    @property
    def is_first(self) -> bool:
        return self.completed is None


def _file(repository: Repository) -> _File | None:
    """Return the file, made of the newest snapshot if it is missing or old; None without a snapshot."""
    path = repository.catalog_path.parent / "shown" / "catalog.db"
    completed = _completed(path)
    if completed is not None and abs(times.now() - completed) < _OLD:
        return _File(path, completed, None)
    try:
        (path.parent / "locks").mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = _begin(repository, path)
    except OSError:
        # The state folder is not writable.
        return None
    return None if taken is None and completed is None else _File(path, completed, taken)


def _completed(path: Path) -> datetime | None:
    """Return when the file was last complete, by this host's clock; None for a file that is not."""
    try:
        return times.from_text(_stamp(path).read_text("ascii")) if path.exists() else None
    except (OSError, ValueError, FormatError):
        return None


def _note_completed(file: _File, now: datetime) -> None:
    with suppress(OSError, PitrError):
        replace_file(_stamp(file.path), times.to_text(now).encode(), 0o600)


def _stamp(path: Path) -> Path:
    return path.with_name("completed")


def _opened(repository: Repository, file: _File) -> CompletedCatalog:
    return CompletedCatalog(
        file.path, repository.store, repository.read_record, own_state=True, remembers=False
    )


def _begin(repository: Repository, path: Path) -> Taken | None:
    """Make the file of the newest snapshot; None without one."""
    scratch = path.with_name(f".{uuid.uuid4().hex}")
    try:
        taken = catalog_snapshots.take(repository, scratch)
        if taken is not None:
            # From here on, the file lacks what was committed after the snapshot.
            _stamp(path).unlink(missing_ok=True)
            replace_catalog(path, scratch)
        return taken
    finally:
        scratch.unlink(missing_ok=True)


def _suffices(repository: Repository, completed: CompletedCatalog, taken: Taken) -> bool:
    """Return whether the notes tell all that happened since the snapshot, and a list of all names takes too long.

    No point can have been hidden and swept within the grace time. Who locks objects expects an intruder, who could hide
    points with a false snapshot.
    """
    if repository.lock is not None:
        return False
    if sum(overview.point_counts(completed.as_it_is).values()) <= _COMPARED_AT_ONCE:
        return False
    age = times.now() - taken.begun
    return age < min(repository.grace, _NOTED)


def _complete_by_notes(completed: CompletedCatalog, store: Store, taken: Taken) -> None:
    """Complete a catalog that had all points at a time, by the tombstones and by the notes of later commits."""
    catalog = completed.as_it_is
    buried = completed.buried()
    changed = set(buried)
    gone: set[str] = set()
    for backup_id in taken.hidden:
        known = catalog.known_record(backup_id)
        if known is None or backup_id in buried.get(_vm_of(known.name), {}):
            continue
        # Its tombstone was taken back, or the point was swept.
        changed.add(_vm_of(known.name))
        if not _exists(store, known.name):
            gone.add(known.name)
    new: dict[str, set[str]] = defaultdict(set)
    for name in _noted(store, catalog, taken.begun - _CLOCKS):
        new[_vm_of(name)].add(name)
    for vm_id in sorted(changed | new.keys()):
        completed.complete_with(vm_id, (catalog.record_names(vm_id) - gone) | new[vm_id])


def _noted(store: Store, catalog: Catalog, since: datetime) -> Iterator[str]:
    """Yield the names of the records that are not in the catalog and whose commits were noted since that day."""
    known_vms, first = catalog.vm_ids(), names.day(since)
    listed_vms: set[str] | None = None
    for day in sorted(day for day in store.folders(names.COMMITS) if day >= first):
        for note in store.list(f"{names.COMMITS}/{day}"):
            # Ids can have hyphens, so that one note could be of several points.
            possible = names.records_of_note(note)
            if any(catalog.known_record(backup_id) is not None for _, backup_id, _ in possible):
                continue
            chosen = [name for vm_id, _, name in possible if vm_id in known_vms]
            if not chosen:
                if listed_vms is None:
                    listed_vms = set(store.folders(names.BACKUPS))
                chosen = [name for vm_id, _, name in possible if vm_id in listed_vms]
            # A note precedes its record, which may never have come.
            yield from chosen if len(chosen) == 1 else [name for name in chosen if _exists(store, name)]


def _vm_of(record_name: str) -> str:
    return record_name.split("/")[1]


def _exists(store: Store, name: str) -> bool:
    try:
        store.size(name)
    except ObjectMissing:
        return False
    return True
