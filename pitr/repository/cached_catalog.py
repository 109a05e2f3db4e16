# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog file of a repository: opened, completed with missing records, checked and rebuilt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from pitr.errors import RepositoryError
from pitr.model import Backup, StoredObject
from pitr.repository import catalog_file, hidden, names, tombstones
from pitr.repository.at_once import each_in_order, reads_at_once
from pitr.repository.catalog import Catalog, overview
from pitr.repository.catalog.catalog import Known
from pitr.repository.catalog.comparison import CatalogDifferences, Comparison
from pitr.repository.damage import StoredDamage
from pitr.repository.hidden import HiddenRecord, HiddenRows, Tombstones
from pitr.repository.store import ObjectMissing, Store
from pitr.system.closing import Closes

ReadRecord = Callable[[str], tuple[Backup, StoredObject]]
StoredRecord = tuple[Backup, str, StoredObject]
#: Records that are read and added at a time.
_BATCH = 500
#: The records of so many new VMs are read, to learn their names.
_FEW_VMS = 5
#: A list of records is of this moment for so long.
_RECENT_S = 60.0


class CompletedCatalog(Closes):
    """A catalog that adds records missing from it, because a process may die between the two writes.

    It removes nothing, so that `verify` notices a lost record, and skips damaged records. If the file is not
    writable, it adds the records in memory. Comparing the names of 100,000 points takes a second, so callers that
    need only one VM complete only that VM.

    Points with a tombstone are not in it. `own_state`: the file belongs to one host of several. Unless it `remembers`,
    a record that is gone is forgotten. `notes_whole`: a file beside the catalog says that it has had all records.
    """

    def __init__(
        self,
        path: Path,
        store: Store,
        read_record: ReadRecord,
        *,
        own_state: bool = False,
        remembers: bool = True,
        notes_whole: bool = False,
    ) -> None:
        self._path = path
        self._own_state = own_state
        self._remembers = remembers
        self._notes_whole = notes_whole
        self._tombstones = Tombstones(store)
        self._hidden: dict[str, dict[str, HiddenRecord]] = {}
        self._hidden_rows = HiddenRows(
            path.with_name("removed.db"),
            partial(catalog_file.opened_file, store=store),
            catalog_file.writable,
            read_record,
        )
        self._store = store
        #: Threads that meet damage complete other VMs.
        self._completing = threading.RLock()
        self._read_record = read_record
        self._catalog = catalog_file.opened_file(path, store)
        self._catalog.instead = self._from_records
        self._whole = False
        self._counted = False
        self._whole_vms: set[str] = set()
        self._sizes: dict[str, tuple[float, dict[str, int]]] = {}
        #: Messages about the records that could not be read, of the VMs that were completed.
        self.unreadable: list[str] = []

    def close(self) -> None:
        self._catalog.close()
        self._hidden_rows.close()

    def whole(self) -> Catalog:
        """Return the catalog with all stored records."""
        with self._completing:
            if not self._whole:
                self._tombstones.all()
                # VM by VM: the names of millions of points would not fit into the memory.
                for vm_id, listed in self._by_vm():
                    if listed is None or vm_id not in self._whole_vms:
                        self._refresh(vm_id, listed)
                self._whole = True
                self._note_whole()
        return self._catalog

    def _note_whole(self) -> None:
        """Note that the file has had all records, so that this host needs no snapshot."""
        if self._notes_whole:
            with suppress(OSError):
                catalog_file.whole_mark(self._path).touch(mode=0o600)

    @property
    def was_whole(self) -> bool:
        """Whether the file once had all records, so that few are missing."""
        return self._whole or catalog_file.whole_mark(self._path).exists()

    @property
    def as_it_is(self) -> Catalog:
        """The catalog without a look at the store."""
        return self._catalog

    def buried(self) -> Mapping[str, Mapping[str, datetime]]:
        """Return when the tombstones of all points were written, by VM and backup id."""
        return self._tombstones.all()

    def complete_with(self, vm_id: str, listed: set[str]) -> None:
        """Complete a VM whose records have these names, as the caller knows."""
        self._refresh(vm_id, listed)

    def is_whole(self) -> None:
        """Take all VMs for complete, as the caller knows."""
        self._whole = True

    def _by_vm(self) -> Iterator[tuple[str, set[str] | None]]:
        """Yield the VMs with the names of their records; None if these are not listed yet."""
        if not self._own_state:
            yield from ((vm_id, None) for vm_id in sorted(self._store.folders(names.BACKUPS)))
            return
        # One list of a bucket shows a thousand records, of any VMs, in order.
        seen: set[str] = set()
        for vm_id, group in groupby(self._store.list(names.BACKUPS), lambda name: name.split("/")[1]):
            yield vm_id, (None if vm_id in seen else set(group))
            seen.add(vm_id)
        # Another host may have removed all points of a VM.
        yield from ((vm_id, set()) for vm_id in sorted(self._catalog.vm_ids() - seen))

    def of_vm(self, name: str, elsewhere: Callable[[str], Sequence[str]] = lambda name: ()) -> Catalog:
        """Return the catalog with all records of the VM with this id or name; with all records if there is none.

        `elsewhere` returns the ids of the VMs with this name, if it knows them without the records.
        """
        if self._whole:
            return self._catalog
        if self._catalog.has_vm(name):
            # An id. A look at all names and folders would cost a prune of 10,000 VMs minutes.
            self._complete_vm(name)
            return self._catalog
        known = self._catalog.vm_ids()
        new = [vm_id for vm_id in self._store.folders(names.BACKUPS) if vm_id not in known]
        told = elsewhere(name) if len(new) > _FEW_VMS else ()
        for vm_id in told or new:
            self._complete_vm(vm_id)
        matches = [vm.id for vm in self._catalog.vms_named(name)]
        if told and not matches:
            # A snapshot can be wrong.
            return self.of_vm(name)
        for vm_id in matches:
            self._complete_vm(vm_id)
        return self._catalog if matches else self.whole()

    def of_id(self, vm_id: str) -> Catalog:
        """Return the catalog with all records of the VM with this id."""
        self._complete_vm(vm_id)
        return self._catalog

    def by_number(self) -> Catalog:
        """Return the catalog with all records of each VM whose number of records it does not know.

        This is quicker than `whole`, and misses a record only if another one of the same VM was lost.
        """
        if not self._whole and not self._counted:
            known = overview.point_counts(self._catalog)
            buried = self._tombstones.all()
            counts = self._store.counts(names.BACKUPS)
            for vm_id in counts.keys() | (known.keys() if self._own_state else set()):
                if counts.get(vm_id, 0) != known.get(vm_id, 0) or vm_id in buried:
                    self._complete_vm(vm_id)
            self._counted = True
        return self._catalog

    def with_point(self, beginning: str) -> Catalog:
        """Return the catalog with all records of the VM whose point's id begins with `beginning`; else with all."""
        if self._whole:
            return self._catalog
        vm_ids = {backup.vm.id for backup in self._catalog.with_prefix(beginning)}
        if len(vm_ids) != 1:
            return self.whole()
        self._complete_vm(vm_ids.pop())
        return self._catalog

    def again(self, vm_id: str, buried: Mapping[str, datetime] | None = None) -> Catalog:
        """Return the catalog with the VM's records and tombstones of this moment.

        `buried` has the tombstones if they were just listed.
        """
        self._tombstones.forget(vm_id, buried)
        self._refresh(vm_id)
        return self._catalog

    def add(self, backup: Backup, name: str, record: StoredObject) -> None:
        """Add a point that was just committed. Raises RepositoryError."""
        self._catalog.add([(backup, name, record)])

    def _complete_vm(self, vm_id: str) -> None:
        with self._completing:
            if not self._whole and vm_id not in self._whole_vms:
                self._refresh(vm_id)

    def _refresh(self, vm_id: str, listed: set[str] | None = None) -> None:
        buried = self._tombstones.of_vm(vm_id)
        known = self._catalog.record_names(vm_id)
        self._hidden.pop(vm_id, None)
        if buried or self._own_state:
            if listed is None:
                # After the tombstones: a point that is swept in between is hidden or absent, never visible.
                listed = set(self._sizes_now(vm_id))
            self._complete_and_hide(vm_id, known, buried, listed)
        else:
            self._take_up(self._store.list(names.records_of(vm_id), besides=known))
        self._whole_vms.add(vm_id)

    def _sizes_now(self, vm_id: str) -> dict[str, int]:
        sizes = {each.name: each.size for each in self._store.listed(names.records_of(vm_id))}
        self._sizes[vm_id] = (time.monotonic(), sizes)
        return sizes

    def record_sizes(self, vm_id: str) -> Mapping[str, int]:
        """Return the sizes of the VM's records by name, as a list showed them a moment ago."""
        listed_at, sizes = self._sizes.get(vm_id, (-_RECENT_S, {}))
        return sizes if time.monotonic() - listed_at < _RECENT_S else self._sizes_now(vm_id)

    def _complete_and_hide(
        self, vm_id: str, known: set[str], buried: Mapping[str, datetime], listed: set[str]
    ) -> None:
        lost_stay = self._remembers
        view = hidden.view(
            self._store, vm_id, known, listed, buried, own_state=self._own_state, lost_stay=lost_stay
        )
        writable = catalog_file.writable(self._path)
        if view.gone:
            went = hidden.entries(self._catalog, vm_id, [each for each in view.gone if each in view.hidden])
            self._hidden_rows.keep(went)
            self._catalog = hidden.without(self._catalog, view.gone, writable=writable)
        self._take_up(view.missing)
        while view.hidden and (needed := hidden.needed(self._catalog, vm_id, view.hidden, self._hidden_rows)):
            self._catalog = hidden.extended(self._catalog, needed, writable=writable)
            for backup, _, _ in needed:
                del view.hidden[backup.backup_id]
        self._hidden[vm_id] = view.hidden

    def hidden_of(self, vm_id: str) -> Mapping[str, HiddenRecord]:
        """Return the records of a VM's points that tombstones hide, by backup id."""
        self._complete_vm(vm_id)
        return self._hidden.get(vm_id, {})

    def hidden_rows(self, vm_id: str | None = None) -> tuple[Catalog, Mapping[str, HiddenRecord]]:
        """Return a catalog of the points (of a VM) that tombstones hide, and their records by backup id."""
        if vm_id is not None:
            records = self.hidden_of(vm_id)
            return self._hidden_rows.of_vm(vm_id, records), records
        by_vm = {each: records for each in self._tombstones.all() if (records := self.hidden_of(each))}
        return self._hidden_rows.of_vms(by_vm), self.hidden_records()

    def hidden_records(self) -> dict[str, HiddenRecord]:
        """Return the records of all points that tombstones hide, by backup id."""
        of_vms = map(self.hidden_of, self._tombstones.all())
        return {backup_id: record for of_vm in of_vms for backup_id, record in of_vm.items()}

    @property
    def unreadable_hidden(self) -> list[str]:
        """Messages about the records of hidden points that could not be read."""
        return self._hidden_rows.unreadable

    def known_record(self, backup_id: str) -> Known | None:
        """Return the record of a point, also of a hidden one of a VM that was completed; None for an unknown point."""
        for vm_id, records in self._hidden.items():
            if backup_id in records:
                return self._hidden_rows.of_vm(vm_id, records).known_record(backup_id)
        return self.with_point(backup_id).known_record(backup_id)

    def _from_records(self) -> Catalog | None:
        """Return a catalog of all records in memory, if the damaged file cannot be rebuilt; else None."""
        if catalog_file.writable(self._path) and catalog_file.has_room(self._store, self._path):
            return None
        fresh = Catalog.create(None)
        for record_names in _by_vm(self._store):
            entries, unreadable = _read(self._store, record_names, self._read_record)
            fresh.add(entries)
            self.unreadable += unreadable
        self._whole = True
        return fresh

    def _take_up(self, missing: Iterable[str]) -> None:
        names_to_read = sorted(missing)
        entries, unreadable = (
            _read(self._store, names_to_read, self._read_record) if names_to_read else ([], [])
        )
        self.unreadable += unreadable
        if entries:
            # Another host that removes a record does not wait for this file.
            there = _always if self._own_state else partial(_is_there, self._store)
            writable = catalog_file.writable(self._path)
            self._catalog = hidden.extended(self._catalog, entries, writable=writable, is_there=there)


def _always(name: str) -> bool:
    return True


def _is_there(store: Store, name: str) -> bool:
    try:
        store.size(name)
    except ObjectMissing:
        return False
    return True


def _read(
    store: Store, record_names: Sequence[str], read_record: ReadRecord
) -> tuple[list[StoredRecord], list[str]]:
    """Read records. Return the readable ones, and messages about the damaged ones."""
    entries: list[StoredRecord] = []
    damage: list[str] = []
    workers = reads_at_once(store)
    with closing(each_in_order(record_names, read_record, workers)) as outcomes:
        for name, outcome in zip(record_names, outcomes, strict=True):
            try:
                backup, stored = outcome()
            except StoredDamage as error:
                damage.append(error.message)
            else:
                entries.append((backup, name, stored))
    return entries, damage


def compare(path: Path, store: Store, read_record: ReadRecord) -> CatalogDifferences:
    """Compare the catalog file with the records, without completing it first."""
    with Comparison(path) as comparison:
        for record_names in _by_vm(store):
            entries, damaged = _read(store, record_names, read_record)
            with Catalog.create(None) as fresh:
                fresh.add(entries)
                hidden.bury(fresh, store, _vm_of(record_names))
                comparison.of_vm(_vm_of(record_names), fresh, damaged)
        return comparison.result()


def rebuild(path: Path, store: Store, read_record: ReadRecord) -> CatalogDifferences:
    """Rebuild the catalog file from the records. Return how the old file differed.

    The new file replaces the old one once it is complete.
    """
    try:
        # Read under the lock, so that the new catalog does not list records that are removed meanwhile.
        with catalog_file.replacing(path):
            scratch = catalog_file.scratch_file(store)
            with Catalog.create(scratch, quick=True) as fresh, Comparison(path) as comparison:
                for record_names in _by_vm(store):
                    vm_id = _vm_of(record_names)
                    # Which points tombstones hide is clear only with all points of the VM.
                    buried = tombstones.of_vm(store, vm_id)
                    batch = len(record_names) if buried else _BATCH
                    for start in range(0, len(record_names), batch):
                        entries, damaged = _read(store, record_names[start : start + batch], read_record)
                        fresh.add(_visible(entries, store, vm_id) if buried else entries)
                        comparison.damaged(damaged)
                    comparison.of_vm(vm_id, fresh)
                fresh.finish()
                result = comparison.result()
            catalog_file.replace(path, scratch)
    except OSError as error:
        raise RepositoryError(f"the catalog cannot be written: {error.strerror}") from error
    return result


def _visible(entries: Sequence[StoredRecord], store: Store, vm_id: str) -> list[StoredRecord]:
    """Return the records of a VM's points that tombstones do not hide."""
    with Catalog.create(None) as visible:
        visible.add(entries)
        hidden.bury(visible, store, vm_id)
        names_left = visible.record_names(vm_id)
    return [entry for entry in entries if entry[1] in names_left]


def _by_vm(store: Store) -> Iterator[list[str]]:
    """Yield the names of the records of each VM, in order."""
    for vm_id in sorted(store.folders(names.BACKUPS)):
        record_names = sorted(store.list(names.records_of(vm_id)))
        if record_names:
            yield record_names


def _vm_of(record_names: Sequence[str]) -> str:
    return record_names[0].split("/")[1]
