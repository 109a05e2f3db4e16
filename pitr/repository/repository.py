# SPDX-License-Identifier: GPL-2.0-or-later
"""A repository: create and open it, commit and remove backups, and open their objects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pitr.errors import RepositoryError, UsageError
from pitr.model import Backup, Record, StoredObject, Stream, VMName
from pitr.repository import lock, marker, names, sealed, shown_catalog, stored_record, tombstones
from pitr.repository.cached_catalog import CompletedCatalog, compare, rebuild
from pitr.repository.catalog import Catalog
from pitr.repository.catalog.catalog import Known
from pitr.repository.catalog.comparison import CatalogDifferences
from pitr.repository.damage import (
    CatalogDiffers,
    Damage,
    StoredDamage,
    What,
    compare_size,
    of_record,
    of_stream,
)
from pitr.repository.location import Location
from pitr.repository.opening import opened_parts
from pitr.repository.parents import parent_of
from pitr.repository.store import (
    LinkInside,
    ObjectMissing,
    ObjectStoreError,
    ReadsHeads,
    Store,
    StoredFile,
    check_name,
)
from pitr.repository.store.lock_rules import Lock
from pitr.repository.store.object_errors import AccessRefused
from pitr.system.closing import Closes

if TYPE_CHECKING:
    from pitr.repository.index import Index
    from pitr.repository.sealing.keyring import Keyring
    from pitr.repository.stream_sink import ExternalBlob, NewStream, StreamSink

_log = logging.getLogger(__name__)
MAX_RECORDS = 1000


class Repository(Closes):
    """An open repository; `close` it, or use it as a context manager."""

    def __init__(
        self,
        location: Location,
        store: Store,
        marker: marker.Marker,
        state: Path,
        keyring: Keyring | None = None,
    ) -> None:
        self.location = location
        self.store = store
        self.id = marker.id
        #: How long the objects of a removed point stay. Zero: `remove` removes them at once, under locks.
        self.grace = marker.grace
        #: How the store protects objects from removal; None: it does not.
        self.lock = marker.lock
        #: The local folder of the catalog and the locks; the location itself if that is a folder.
        self.path = state
        #: The keys of a sealed repository.
        self.keyring = keyring
        self._catalog: CompletedCatalog | None = None
        self._shown: CompletedCatalog | None = None
        # Streams that a record names or may name; `drop_stream` keeps them.
        self.recorded: set[str] = set()
        #: Records of a bucket by name that this process need not read (again), and whether it trusts copies of indexes.
        self.read_records: dict[str, tuple[Backup, StoredObject]] = {}
        self.trusts_copies = False

    @classmethod
    def create(
        cls,
        location: Location,
        *,
        grace: timedelta | None = None,
        lock: Lock | None = None,
        recipients: Sequence[str] = (),
    ) -> Self:
        """Create a repository in an empty or new folder, or below a prefix of a bucket. Raises RepositoryError.

        `grace`: how long the objects of a removed point stay; None for the default of the place. `lock`: how objects
        in a bucket are protected from removal. With `recipients` (age1…) it is sealed, and this host pins them.
        """
        sealed.pin(marker.create(location, grace, lock=lock, recipients=recipients), recipients)
        return cls.open(location)

    @classmethod
    def open(cls, location: Location) -> Self:
        """Open a repository. Raises RepositoryError if there is none, or if it needs a newer pitr."""
        return cls(location, *opened_parts(location))

    def close(self) -> None:
        self.forget_catalog()
        self.store.close()

    @property
    def catalog(self) -> Catalog:
        """The catalog with all records."""
        return self.opened_catalog().whole()

    def catalog_of_vm(self, name: str | None) -> Catalog:
        """Return the catalog with all records of the VM with this id or name, which is faster; with all for None."""
        return self.catalog if name is None else self.opened_catalog().of_vm(name, self._vms_named)

    @property
    def catalog_by_number(self) -> Catalog:
        """The catalog with all records, if no record was lost; quicker than `catalog`."""
        return self.opened_catalog().by_number()

    @property
    def shown_catalog(self) -> Catalog:
        """A catalog with all points, for lists only: a new host of a bucket makes it of a snapshot."""
        if self._shown is None and self._is_new:
            self._shown = shown_catalog.opened(self)
        return self.catalog if self._shown is None else self._shown.whole()

    def _vms_named(self, name: str) -> Sequence[str]:
        return shown_catalog.vms_named(self, name) if self._is_new else ()

    @property
    def _is_new(self) -> bool:
        """Whether this host of a bucket has not read all records yet."""
        return self.path != self.location and not self.opened_catalog().was_whole

    def completed_again(self, vm_id: str | None = None) -> tuple[Catalog, Sequence[str]]:
        """Return the catalog with all records (of a VM) that exist now, and messages about unreadable ones.

        Among these are the records of all hidden points, which are not in the catalog.
        """
        self.forget_catalog()
        opened = self.opened_catalog()
        catalog = opened.whole() if vm_id is None else opened.of_id(vm_id)
        opened.hidden_rows()
        return catalog, [*opened.unreadable, *opened.unreadable_hidden]

    def catalog_with_point(self, beginning: str) -> Catalog:
        """Return the catalog with all records of the VM whose point's id begins with `beginning`, which is faster."""
        return self.opened_catalog().with_point(beginning)

    def opened_catalog(self) -> CompletedCatalog:
        """Return the catalog with what completes it, and what tombstones hide."""
        if self._catalog is None:
            self._catalog = CompletedCatalog(
                self.catalog_path,
                self.store,
                self.read_record,
                own_state=self._has_own_catalog,
                notes_whole=self.path != self.location,
            )
        return self._catalog

    @property
    def catalog_path(self) -> Path:
        """The path of the catalog. Raises LinkInside for a link, which SQLite would follow out of the repository."""
        path = self.path / "catalog.db"
        if self.keyring is not None:
            path = self.keyring.catalog_path(path)
        if path.is_symlink():
            raise LinkInside(path)
        return path

    def check_catalog(self) -> CatalogDifferences:
        """Compare the catalog file with the records."""
        return compare(self.catalog_path, self.store, self.read_record)

    def rebuild_catalog(self) -> CatalogDifferences:
        """Rebuild the catalog file from the records. Return how the old file differed."""
        self.forget_catalog()
        return rebuild(self.catalog_path, self.store, self.read_record)

    def forget_catalog(self) -> None:
        """Close the catalog; its next user opens and completes it again."""
        for each in (self._catalog, self._shown):
            if each is not None:
                each.close()
        self._catalog = self._shown = None

    # Writing

    @property
    def removes_later(self) -> bool:
        """Whether a removal only hides points: hosts share no locks, or a grace time was asked for."""
        return self.grace > timedelta() or self.path != self.location

    @property
    def _has_own_catalog(self) -> bool:
        """Whether others have catalogs of their own: on other hosts, or with the names of a sealed repository."""
        return self.path != self.location or self.keyring is not None

    @property
    def opens(self) -> bool:
        """Whether this process can read the content: the repository is not sealed, or an identity opens it."""
        return self.keyring is None or self.keyring.opens

    def check_opens(self) -> None:
        """Raise NoFittingIdentity if the repository is sealed, and this process cannot read its content."""
        sealed.check_opens(self.keyring)

    def lock_vm(self, vm: VMName) -> AbstractContextManager[None]:
        """Lock a VM for writing backups. Raises BusyError at once if another process has locked it."""
        return lock.hold(self.path / check_name(names.lock(vm.id)), f"the VM {vm.name}")

    def collecting(self) -> AbstractContextManager[None]:
        """Lock the unreferenced objects, to remove them or to make records of them. Raises BusyError."""
        return lock.hold(self.path / names.COLLECTION_LOCK, "the unreferenced objects")

    def before_all_writers(self, limit: datetime) -> datetime:
        """Return `limit`, or the start of the oldest run that still writes backups of a VM, if that is earlier."""
        return lock.oldest_hold(self.path / "locks", limit) or limit

    def reading_vm(self, vm: VMName) -> AbstractContextManager[None]:
        """Protect the points of a VM from removal while you read them. Raises BusyError during a removal."""
        return lock.share(self.path / check_name(names.readers_lock(vm.id)), f"the points of VM {vm.name}")

    @contextmanager
    def removing_from_vm(self, vm: VMName) -> Iterator[None]:
        """Lock a VM for removing points, against backups and readers. Raises BusyError."""
        readers = self.path / check_name(names.readers_lock(vm.id))
        with self.lock_vm(vm), lock.hold(readers, f"the points of VM {vm.name}"):
            yield

    def new_stream(
        self,
        new: NewStream,
        size: int,
        meta: Mapping[str, Any],
        *,
        level: int,
        external: ExternalBlob | None = None,
        of_parts: bool = False,
    ) -> StreamSink:
        """Begin a stream of a disk of `size` bytes; see StreamSink for the parameters."""
        from pitr.repository.stream_sink import StreamSink  # noqa: PLC0415 - a list of points needs no arrays

        if external is not None:
            sealed.refuse_external(self.keyring)
        return StreamSink(self.store, new, size, meta, level=level, external=external, of_parts=of_parts)

    def drop_stream(self, disk_id: str, stream_id: str, *, keep_blob: bool = False) -> None:
        """Remove a stream unless its record is or may be written; then `prune` decides.

        `keep_blob`: other streams use its frames.
        """
        if stream_id in self.recorded:
            return
        objects = [names.index(disk_id, stream_id), names.index_copy(disk_id, stream_id)]
        for name in [*objects, *(() if keep_blob else (names.blob(disk_id, stream_id),))]:
            # `prune` removes what is protected when its time has passed, and what a writer may not remove.
            with suppress(AccessRefused):
                self.store.delete(name)

    def commit(self, new: Record) -> Backup:
        """Commit a backup after all its streams; see `pitr.repository.committing`."""
        from pitr.repository.committing import commit  # noqa: PLC0415 - a list of points commits nothing

        return commit(self, new)

    def remove(self, backups: Sequence[Backup]) -> None:
        """Remove the records of backups in this order, each before the backup that it is based on.

        Their streams stay until `prune` removes them. The caller holds `removing_from_vm`.
        """

        def delete() -> None:
            for backup in backups:
                self.store.delete(names.record(backup.vm.id, backup.point, backup.backup_id))

        # Open the file again: the open catalog may be in memory, or another process may replace the file.
        self.forget_catalog()
        with (
            lock.wait_for(self.path / names.CATALOG_LOCK, "the catalog"),
            Catalog.open(self.catalog_path) as catalog,
        ):
            catalog.remove([backup.backup_id for backup in backups], delete)
        if self._has_own_catalog:
            for backup in backups:
                tombstones.note_swept(self.store, backup.vm.id, backup.backup_id)
        self.recorded -= {stream.stream_id for backup in backups for stream in backup.streams}

    # Reading

    def read_record(self, name: str) -> tuple[Backup, StoredObject]:
        """Read a record by the name of its object, without the catalog. Raises StoredDamage."""
        return stored_record.read(self.store, name)

    def record_of(self, backup_id: str) -> Backup:
        """Read the record of a backup, and compare it with the catalog. Raises StoredDamage."""
        known = self.opened_catalog().known_record(backup_id)
        if known is None:
            raise of_record(backup_id, "missing", f"the record of backup {backup_id} is missing")
        return self.read_known(known)

    def read_known(self, known: Known) -> Backup:
        """Read a record that the catalog knows, and compare it with the catalog. Raises StoredDamage."""
        backup_id = known.backup_id
        try:
            backup, stored = self.read_records.get(known.name) or self.read_record(known.name)
        except StoredDamage as error:
            damage = error.damage
            raise of_record(backup_id, damage.kind, damage.message) from None
        if stored != known.record:
            raise of_record(
                backup_id, "inconsistent", f"the record {known.name} was changed after it was written"
            )
        if self.path != self.location and len(self.read_records) < MAX_RECORDS:
            self.read_records[known.name] = backup, stored
        return backup

    def chain(
        self, backup: Backup, stream: Stream, read: Mapping[str, Backup] | None = None
    ) -> list[tuple[Backup, Stream]]:
        """Return the chain of a stream: itself first, the full last. Raises StoredDamage for a gap.

        `read` has backups by id whose records the caller has just read; they are not read again.
        """
        read = read or {}
        # The catalog does not suffice: the record may be lost or changed.
        if backup.backup_id not in read and self.record_of(backup.backup_id) != backup:
            message = f"the catalog and the record of backup {backup.backup_id} do not agree: see 'pitr catalog check'"
            raise CatalogDiffers(Damage(backup.backup_id, None, None, "inconsistent", "record", message))
        links = [(backup, stream)]
        seen = {stream.stream_id}
        while stream.parent_stream_id is not None:
            backup, stream = parent_of(
                backup, stream, lambda above: read.get(above) or self.record_above(above), seen
            )
            seen.add(stream.stream_id)
            links.append((backup, stream))
        return links

    def record_above(self, backup_id: str) -> Backup:
        """Read the record of a backup, or of the synthetic one that stands for it. Raises StoredDamage."""
        try:
            return self.record_of(backup_id)
        except StoredDamage:
            stand_in = self.catalog_with_point(backup_id).stand_in(backup_id)
            if stand_in is None:
                raise
            return self.record_of(stand_in.backup_id)

    def check_sizes(self, backup: Backup, stream: Stream, listed: Mapping[str, int] | None = None) -> None:
        """Compare the sizes of a stream's blob and index with the record. Raises StoredDamage.

        `listed` has the sizes of objects by name, from a list of this moment; others are looked up one by one.
        """
        listed = listed or {}
        objects: list[tuple[What, str, StoredObject]] = [
            ("index", names.index(stream.disk_id, stream.stream_id), stream.index)
        ]
        if stream.index_copy is not None:
            objects.append(("index", names.index_copy(stream.disk_id, stream.stream_id), stream.index_copy))
        if stream.blob is not None and self.is_here(stream):
            objects.insert(0, ("blob", names.blob(stream.disk_id, stream.stream_id), stream.blob))
        for what, name, recorded in objects:
            if name in listed:
                compare_size(backup, stream, what, listed[name], recorded.size)
                continue
            with self.open_object(backup, stream, what, name) as file:
                compare_size(backup, stream, what, file.size, recorded.size)
        if stream.parts:
            from pitr.repository.layers import blobs_of_others  # noqa: PLC0415 - a list of points needs no arrays

            for used in blobs_of_others(stream):
                self.open_blob(backup, used).close()

    def is_here(self, stream: Stream) -> bool:
        """Return whether the blob must be in the repository: it was not piped out, or it was imported again."""
        if stream.external != "zstd":
            return stream.external is None
        try:
            self.store.size(names.blob(stream.disk_id, stream.stream_id))
        except ObjectMissing:
            return False
        return True

    def open_blob(self, backup: Backup, stream: Stream, *, head: int = 0) -> StoredFile:
        """Open a blob after comparing its size with the record. `head`: the first bytes that you read, if any.

        Raises StoredDamage, and UsageError for a blob that is stored externally.
        """
        if not self.is_here(stream):
            raise UsageError(
                f"the blob of stream {stream.stream_id} (backup {backup.backup_id}) is stored externally",
                "Restore with --get-command, a command that writes the blob to its standard output, or bring the blob "
                "back with 'pitr import'.",
            )
        name = names.blob(stream.disk_id, stream.stream_id)
        file = self.open_object(backup, stream, "blob", name, head=head)
        try:
            compare_size(backup, stream, "blob", file.size, stream.own_blob.size)
        except BaseException:
            file.close()
            raise
        return file

    def open_index(self, backup: Backup, stream: Stream) -> Index:
        """Open an extent index after comparing its digest with the record. Raises StoredDamage.

        If it is damaged, its second copy is used, if it has one.
        """
        from pitr.repository.stored_index import opened_good_index  # noqa: PLC0415 - as above

        return opened_good_index(self, backup, stream)

    def open_index_copy(self, backup: Backup, stream: Stream, *, second: bool = False) -> Index:
        """Open an extent index, or its `second` copy, after comparing its digest with the record.

        Raises StoredDamage.
        """
        from pitr.repository.stored_index import opened_index  # noqa: PLC0415 - a list of points needs no arrays

        return opened_index(self, backup, stream, second=second)

    def open_object(
        self, backup: Backup, stream: Stream, what: What, name: str, *, head: int = 0
    ) -> StoredFile:
        """Open an object of a stream; `head` as for `open_blob`. Raises StoredDamage."""
        try:
            if head and self.keyring is None and isinstance(self.store, ReadsHeads):
                return self.store.open_with_head(name, head)
            return sealed.open_as_recorded(self.store, self.keyring, stream, name)
        except ObjectMissing:
            raise of_stream(backup.backup_id, stream, "missing", what, "it is missing") from None
        except ObjectStoreError:
            raise
        except RepositoryError as error:
            raise of_stream(backup.backup_id, stream, "corrupt", what, error.message) from error
