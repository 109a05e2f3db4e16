# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog file of a repository: opened, completed with records that it lacks, checked and made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pitr.errors import RepositoryError
from pitr.model import Backup, Record, StoredObject
from pitr.repository import lock, names
from pitr.repository.catalog import Catalog
from pitr.repository.catalog.catalog import CatalogUnusable
from pitr.repository.damage import StoredDamage
from pitr.repository.store import ObjectMissing, Store
from pitr.repository.store.naming import set_mode

ReadRecord = Callable[[str], tuple[Record, StoredObject]]
StoredRecord = tuple[Backup, str, StoredObject]
CatalogRow = dict[str, Any]


class CompletedCatalog:
    """A catalog to which the records that it lacks are added: a process may have died before it did so.

    Nothing is taken away: a record that is gone stays known, so that its loss is noticed. Damaged records are left
    to `verify`. Where the file cannot be written, what is missing is added in memory. Comparing all names takes a
    second where there are some 100,000 points; where only one VM's points matter, only its own are compared.
    """

    def __init__(self, path: Path, store: Store, read_record: ReadRecord) -> None:
        self._path = path
        self._store = store
        self._read_record = read_record
        self._catalog = _open(path, store)
        self._whole = False
        self._whole_vms: set[str] = set()

    def close(self) -> None:
        self._catalog.close()

    def whole(self) -> Catalog:
        """With all records that are there."""
        if not self._whole:
            self._take_up(self._store.list(names.BACKUPS, besides=self._catalog.record_names()))
            self._whole = True
        return self._catalog

    def of_vm(self, name: str) -> Catalog:
        """With all records of the VM that has this id or name; with all there are when none has."""
        if self._whole:
            return self._catalog
        known = {vm.id for vm in self._catalog.vms()}
        for vm_id in self._store.folders(names.BACKUPS):
            if vm_id not in known:
                self._complete_vm(vm_id)
        found = [vm.id for vm in self._catalog.vms() if name in (vm.id, vm.name)]
        for vm_id in found:
            self._complete_vm(vm_id)
        return self._catalog if found else self.whole()

    def with_point(self, beginning: str) -> Catalog:
        """With the point whose id is, or begins with, `beginning`, and all records of its VM, if there is one."""
        if self._whole:
            return self._catalog
        found = {backup.vm.id for backup in self._catalog.with_prefix(beginning)}
        if len(found) != 1:
            return self.whole()
        self._complete_vm(found.pop())
        return self._catalog

    def _complete_vm(self, vm_id: str) -> None:
        if not self._whole and vm_id not in self._whole_vms:
            known = self._catalog.record_names(vm_id)
            self._take_up(self._store.list(names.records_of(vm_id), besides=known))
            self._whole_vms.add(vm_id)

    def _take_up(self, missing: Iterable[str]) -> None:
        found = sorted(missing)
        entries = _read(found, self._read_record)[0] if found else []
        if entries:
            self._catalog = _completed(self._catalog, self._store, entries, _writable(self._path))


def _completed(catalog: Catalog, store: Store, entries: Sequence[StoredRecord], writable: bool) -> Catalog:
    if writable:
        # A disk that is full must not keep anybody from restoring: then it is as for a read-only repository.
        with suppress(RepositoryError):
            catalog.add(entries, is_there=partial(_is_there, store))
            return catalog
    in_memory = catalog.copy_in_memory()
    in_memory.add(entries)
    catalog.close()
    return in_memory


def _is_there(store: Store, name: str) -> bool:
    try:
        store.size(name)
    except ObjectMissing:
        return False
    return True


def _open(path: Path, store: Store) -> Catalog:
    if not _writable(path):
        try:
            return Catalog.open(path, read_only=True)
        except RepositoryError:
            return Catalog.create(None)
    try:
        return Catalog.open(path)
    except CatalogUnusable:
        return _made_anew(path, store)


def _made_anew(path: Path, store: Store) -> Catalog:
    """Put an empty catalog in the place of one that is none. Where that fails, one in memory has to do."""
    try:
        with _replacing(path):
            try:
                # Another process may have been quicker.
                return Catalog.open(path)
            except CatalogUnusable:
                scratch = _scratch(store)
                Catalog.create(scratch).close()
                _replace(path, scratch)
                return Catalog.open(path)
    except (RepositoryError, OSError):
        return Catalog.create(None)


def _replacing(path: Path) -> AbstractContextManager[None]:
    """Hold the right to put another file in the place of the catalog."""
    return lock.wait_for(path.parent / names.CATALOG_LOCK, "the catalog")


def _scratch(store: Store) -> Path:
    scratch = store.scratch_file()
    scratch.touch(mode=0o600)
    set_mode(scratch, 0o600)
    return scratch


def _replace(path: Path, scratch: Path) -> None:
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    # A journal of the old file must never be played back into the new one, wherever this is interrupted.
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    scratch.replace(path)


def _writable(path: Path) -> bool:
    # SQLite puts its journal into the folder.
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


def _read(found: Sequence[str], read_record: ReadRecord) -> tuple[list[StoredRecord], list[str]]:
    """The readable ones of these records, and what is wrong with the others."""
    entries: list[StoredRecord] = []
    damage: list[str] = []
    for name in found:
        try:
            record, stored = read_record(name)
        except StoredDamage as error:
            damage.append(error.message)
        else:
            entries.append((record.backup, name, stored))
    return entries, damage


@dataclass(frozen=True, slots=True)
class CatalogDifferences:
    """What the catalog and the records do not agree on, a line each; `damaged` tells of records themselves."""

    points: int
    streams: int
    differences: tuple[str, ...]
    damaged: tuple[str, ...]


def compare(path: Path, store: Store, read_record: ReadRecord) -> CatalogDifferences:
    """Compare the catalog file, as it is, with the records."""
    entries, damaged = _read(sorted(store.list(names.BACKUPS)), read_record)
    with _fresh(None, entries) as fresh:
        return _compared(path, fresh, damaged)


def rebuild(path: Path, store: Store, read_record: ReadRecord) -> CatalogDifferences:
    """Make the catalog file again from the records; tell what was different.

    The new file replaces the old one when it is complete.
    """
    try:
        # Read under the lock: records that are removed meanwhile must not come back as lost ones.
        with _replacing(path):
            entries, damaged = _read(sorted(store.list(names.BACKUPS)), read_record)
            scratch = _scratch(store)
            with _fresh(scratch, entries) as fresh:
                comparison = _compared(path, fresh, damaged)
            _replace(path, scratch)
    except OSError as error:
        raise RepositoryError(f"the catalog cannot be written: {error.strerror}") from error
    return comparison


def _fresh(path: Path | None, entries: Sequence[StoredRecord]) -> Catalog:
    catalog = Catalog.create(path)
    catalog.add(entries)
    return catalog


def _compared(path: Path, fresh: Catalog, damaged: Sequence[str]) -> CatalogDifferences:
    should = fresh.dump()
    differences = [f"record: {message}" for message in damaged]
    try:
        with Catalog.open(path, read_only=True) as catalog:
            have = catalog.dump()
    except RepositoryError:
        differences.append("there is no catalog file that can be used")
    else:
        for table, rows in should.items():
            differences += _differing(table, have[table], rows)
    return CatalogDifferences(len(should["point"]), len(should["stream"]), tuple(differences), tuple(damaged))


def _differing(table: str, have: Sequence[CatalogRow], should: Sequence[CatalogRow]) -> Iterator[str]:
    key = {"point": ("backup_id",), "stream": ("stream_id",), "left_out": ("backup_id", "disk_id")}[table]
    old = {tuple(row[part] for part in key): row for row in have}
    new = {tuple(row[part] for part in key): row for row in should}
    for name in sorted(old.keys() | new.keys()):
        shown = " ".join(str(part) for part in name)
        if name not in new:
            yield f"{table} {shown}: in the catalog, but there is no such record"
        elif name not in old:
            yield f"{table} {shown}: in the records, but not in the catalog"
        elif old[name] != new[name]:
            columns = ", ".join(column for column in new[name] if old[name][column] != new[name][column])
            yield f"{table} {shown}: the catalog has another {columns}"
