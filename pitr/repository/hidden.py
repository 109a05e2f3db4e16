# SPDX-License-Identifier: GPL-2.0-or-later
"""The points that tombstones hide: which they are, and a second catalog with their rows.

The first catalog has only the points that are not hidden, so that nothing else needs to know of tombstones. A
tombstone does not count for a point that another point is based on: somebody committed that one meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pitr.errors import RepositoryError
from pitr.model import Backup, StoredObject
from pitr.repository import names, tombstones
from pitr.repository.catalog import Catalog, overview
from pitr.repository.damage import StoredDamage
from pitr.repository.store import Store
from pitr.system.closing import Closes

StoredRecord = tuple[Backup, str, StoredObject]
ReadRecord = Callable[[str], tuple[Backup, StoredObject]]


@dataclass(frozen=True, slots=True)
class HiddenRecord:
    """The record of a point with a tombstone, which was written at `removed_at` by the store's clock."""

    name: str
    removed_at: datetime


@dataclass(frozen=True, slots=True)
class View:
    """What a list of a VM's records and tombstones says.

    `missing`: the records that the catalog lacks. `gone`: the ids of the points whose rows must go, because they are
    hidden or were swept.
    """

    hidden: dict[str, HiddenRecord]
    missing: list[str]
    gone: list[str]


def view(
    store: Store,
    vm_id: str,
    known: Collection[str],
    listed: set[str],
    buried: Mapping[str, datetime],
    *,
    own_state: bool,
    lost_stay: bool = True,
) -> View:
    """Compare the `known` records of a VM with those that were `listed`, after the tombstones (`buried`).

    `own_state`: other hosts remove points without telling this catalog. `lost_stay`: so do the rows of points whose
    records are gone although no host removed them. Raises RepositoryError.
    """
    ids = {name: names.backup_of_record(name) or "" for name in listed | set(known)}
    hidden = {
        ids[name]: HiddenRecord(name, buried[ids[name]]) for name in sorted(listed) if ids[name] in buried
    }
    gone = [ids[name] for name in known if ids[name] in buried]
    lost = [ids[name] for name in known if name not in listed and ids[name] not in buried]
    if not lost_stay:
        gone += lost
    elif lost and own_state:
        swept = {name.rpartition("/")[2] for name in store.list(names.swept_of(vm_id))}
        gone += [backup_id for backup_id in lost if backup_id in swept]
    missing = [name for name in listed.difference(known) if ids[name] not in hidden]
    return View(hidden, missing, gone)


def needed(
    catalog: Catalog, vm_id: str, hidden: Mapping[str, HiddenRecord], rows: HiddenRows
) -> list[StoredRecord]:
    """Return the records of hidden points that points of the catalog are based on, directly."""
    wanted = overview.missing_parents(catalog, vm_id)
    if not wanted:
        return []
    of_vm = rows.of_vm(vm_id, hidden)
    by_id = {backup.backup_id: backup for backup in of_vm.points(vm_id)}
    stand_ins = {backup.stands_for: backup for backup in by_id.values() if backup.stands_for is not None}
    chosen = [each for name in wanted if (each := by_id.get(name) or stand_ins.get(name)) is not None]
    return entries(of_vm, vm_id, [backup.backup_id for backup in chosen if backup.backup_id in hidden])


def based_on(points: Sequence[Backup], buried: Collection[str]) -> dict[str, str | None]:
    """Return the id of the point that each of these needs, by its own id; `buried` are the ids with a tombstone.

    A synthetic point that is not buried takes the place of the buried point that it stands for.
    """
    known = {each.backup_id for each in points}
    stand_ins: dict[str | None, str] = {
        each.stands_for: each.backup_id
        for each in sorted(points, key=lambda each: each.backup_id not in buried)
        if each.stands_for is not None
    }
    found: dict[str, str | None] = {}
    for each in points:
        parent, instead = each.parent_id, stand_ins.get(each.parent_id)
        is_gone = parent not in known or (parent in buried and instead not in buried)
        found[each.backup_id] = instead if instead is not None and is_gone else parent
    return found


def needed_by(points: Iterable[str], parents: Mapping[str, str | None]) -> set[str]:
    """Return the ids of these points and of all that they need; `parents` as `based_on` returns it."""
    found: set[str] = set()
    for point in points:
        current: str | None = point
        while current is not None and current not in found:
            found.add(current)
            current = parents.get(current)
    return found


def bury(catalog: Catalog, store: Store, vm_id: str) -> None:
    """Remove the points that tombstones hide from a catalog that has all records of the VM."""
    buried = tombstones.of_vm(store, vm_id)
    if buried:
        parents = based_on(catalog.points(vm_id), buried)
        kept = needed_by([backup_id for backup_id in parents if backup_id not in buried], parents)
        catalog.remove(sorted(parents.keys() - kept), lambda: None)


def entries(catalog: Catalog, vm_id: str, backup_ids: Collection[str]) -> list[StoredRecord]:
    """Return these points of a VM as `Catalog.add` takes them; unknown ones are absent."""
    if not backup_ids:
        return []
    known = {each.backup_id: each for each in catalog.known(vm_id).values()}
    backups = overview.backups(catalog, [name for name in backup_ids if name in known])
    return [(backup, known[name].name, known[name].record) for name, backup in backups.items()]


def without(catalog: Catalog, backup_ids: Sequence[str], *, writable: bool) -> Catalog:
    """Return the catalog without these points. A file that cannot be written is replaced by a copy in memory."""
    if not backup_ids:
        return catalog
    if writable:
        with suppress(RepositoryError):
            catalog.remove(backup_ids, lambda: None)
            return catalog
    in_memory = catalog.copy_in_memory()
    in_memory.remove(backup_ids, lambda: None)
    catalog.close()
    return in_memory


def extended(
    catalog: Catalog,
    added: Sequence[StoredRecord],
    *,
    writable: bool,
    is_there: Callable[[str], bool] = lambda name: True,
) -> Catalog:
    """Return the catalog with these points. A file that cannot be written is replaced by a copy in memory.

    The file does not get a record for which `is_there` returns False.
    """
    if not added:
        return catalog
    if writable:
        # You must be able to restore with a full disk, so it works like a read-only repository.
        with suppress(RepositoryError):
            catalog.add(added, is_there=is_there)
            return catalog
    in_memory = catalog.copy_in_memory()
    in_memory.add(added)
    catalog.close()
    return in_memory


class HiddenRows(Closes):
    """A catalog of hidden points beside the catalog. It is a cache; nothing is opened before it is needed."""

    def __init__(
        self,
        path: Path,
        opened: Callable[[Path], Catalog],
        writable: Callable[[Path], bool],
        read_record: ReadRecord,
    ) -> None:
        self._path = path
        self._opened = opened
        self._writable = writable
        self._read_record = read_record
        self._catalog: Catalog | None = None
        #: Messages about the hidden records that could not be read.
        self.unreadable: list[str] = []

    def close(self) -> None:
        if self._catalog is not None:
            self._catalog.close()

    def keep(self, added: Sequence[StoredRecord]) -> None:
        """Keep the rows of points that are hidden now."""
        if added:
            self._catalog = extended(self._open(), added, writable=self._writable(self._path))

    def of_vm(self, vm_id: str, hidden: Mapping[str, HiddenRecord]) -> Catalog:
        """Return the catalog; of the VM it has the hidden points, as far as their records are readable."""
        catalog = self._open(create=bool(hidden))
        known = {each.backup_id for each in catalog.known(vm_id).values()}
        writable = self._writable(self._path)
        added: list[StoredRecord] = []
        for backup_id, record in hidden.items():
            if backup_id not in known:
                try:
                    backup, stored = self._read_record(record.name)
                except StoredDamage as error:
                    self.unreadable.append(error.message)
                else:
                    added.append((backup, record.name, stored))
        catalog = without(catalog, sorted(known - hidden.keys()), writable=writable)
        self._catalog = extended(catalog, added, writable=writable)
        return self._catalog

    def of_vms(self, hidden: Mapping[str, Mapping[str, HiddenRecord]]) -> Catalog:
        """Return the catalog with the hidden points of these VMs, and no others."""
        others = [vm.id for vm in self._open(create=bool(hidden)).vms() if vm.id not in hidden]
        for vm_id in (*others, *hidden):
            self.of_vm(vm_id, hidden.get(vm_id, {}))
        return self._open(create=bool(hidden))

    def _open(self, *, create: bool = True) -> Catalog:
        """Open the file. Most folders never have a tombstone, nor the file: `create` tells whether it is needed."""
        if self._catalog is None:
            if not create and not self._path.exists():
                return Catalog.create(None)
            self._catalog = self._opened(self._path)
        return self._catalog


class Tombstones:
    """The tombstones of a repository, listed once: for a VM, or for all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._all: dict[str, dict[str, datetime]] | None = None
        self._next: dict[str, dict[str, datetime]] = {}

    def of_vm(self, vm_id: str) -> dict[str, datetime]:
        """Return when the tombstones of a VM's points were written, by backup id."""
        if self._all is not None:
            return self._all.get(vm_id, {})
        given = self._next.pop(vm_id, None)
        return tombstones.of_vm(self._store, vm_id) if given is None else given

    def forget(self, vm_id: str, listed: Mapping[str, datetime] | None = None) -> None:
        """List the tombstones of a VM again; `listed` are those of this moment, if the caller knows them."""
        if self._all is not None:
            self._all[vm_id] = tombstones.of_vm(self._store, vm_id) if listed is None else dict(listed)
        elif listed is not None:
            self._next[vm_id] = dict(listed)

    def all(self) -> dict[str, dict[str, datetime]]:
        """Return the same by VM; later answers about one VM come from this list."""
        if self._all is None:
            self._all = tombstones.of_vms(self._store)
        return self._all
