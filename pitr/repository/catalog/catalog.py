# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog's queries and updates.

The catalog also keeps the digest of each record, so that a changed or lost record is noticed.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from pitr.errors import BusyError, RepositoryError
from pitr.model import Backup, Mode, StoredObject, VMName
from pitr.repository import lock, names, schema, sqlite
from pitr.repository.catalog import rows, writing
from pitr.repository.catalog.dependence import (
    DEPENDANTS,
    DESCENDANTS,
    LATEST_IN_CHAIN,
    OF_OTHER_VMS,
    OTHER_USERS,
    USERS,
)
from pitr.repository.catalog.order import by_lineage
from pitr.repository.catalog.packed import (
    digest_text,
    id_text,
    packed_id,
    packed_time,
    refusing_damage,
    time_of,
)
from pitr.repository.catalog.places import text_of
from pitr.repository.catalog.user_query import Rows, run_query
from pitr.system.closing import Closes

APPLICATION_ID = 0x70697463
VERSION = 9
_REBUILD = "Run 'pitr catalog rebuild' to rebuild it from the records."
T = TypeVar("T")
_VIEWS = ("point", "stream", "left_out")
#: SQLite takes at least 999 values in a query.
_AT_ONCE = 900
_ID = text_of("p.backup_id")
_OF_VM = "FROM point_row AS p JOIN vm_row AS v ON v.number = p.vm"
_POINTS = f"SELECT p.*, v.id AS vm_id {_OF_VM}"
_RECORDS = f"SELECT p.backup_id, v.id AS vm_id, p.point, p.record_size, p.record_digest {_OF_VM}"
#: A plan for millions of points must not need more memory than a list of a VM. The system caches the file anyway.
_LITTLE = "PRAGMA cache_size = -768"
_QUICK = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536; "


@dataclass(frozen=True, slots=True)
class Known:
    """A record's name, size and digest, as the catalog keeps them."""

    backup_id: str
    name: str
    record: StoredObject


class Catalog(Closes):
    """An open catalog, for any number of threads. Raises RepositoryError for failures of SQLite.

    `instead` returns a catalog that stands in for a file that cannot be read, or None if the error shall be raised.
    """

    def __init__(self, connection: sqlite3.Connection, *, quick: bool = False) -> None:
        connection.row_factory = sqlite3.Row
        self._connection = connection
        self._quick = quick
        self._replacing = threading.Lock()
        self.instead: Callable[[], Catalog | None] | None = None

    @classmethod
    def create(cls, path: Path | None, *, quick: bool = False) -> Self:
        """Create an empty catalog in a new file; in memory for None.

        A `quick` one is for many rows: it has no journal and no indexes. It is complete after `finish`, and useless
        after an error.
        """
        with ExitStack() as stack:
            try:
                connection = sqlite.connect_in_memory() if path is None else sqlite.connect(path, create=True)
                stack.callback(connection.close)
                sql = schema.read("catalog.sql")
                if quick:
                    connection.executescript(f"{_QUICK}{sql}")
                    connection.executescript(";".join(f"DROP INDEX {name}" for name, _ in writing.indexes()))
                else:
                    connection.executescript(f"BEGIN; {sql} COMMIT;")
            except sqlite3.Error as error:
                _raise(error)
            stack.pop_all()
        return cls(connection, quick=quick)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, tries: int = 5) -> Self:
        """Open the catalog file.

        Raises CatalogUnusable if it does not exist, is no catalog or has another version. Raises RepositoryError if
        it exists but cannot be read (locked, disk error), after several `tries`, because another process may create
        it in between.
        """
        with ExitStack() as stack:
            try:
                connection = sqlite.connect_read_only(path) if read_only else sqlite.connect(path)
                stack.callback(connection.close)
                connection.execute(_LITTLE)
                identity = [
                    connection.execute(f"PRAGMA {what}").fetchone()[0]
                    for what in ("application_id", "user_version")
                ]
            except sqlite3.OperationalError as error:
                if not path.exists():
                    raise CatalogUnusable("there is no catalog") from error
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CANTOPEN and tries > 1:
                    return cls.open(path, read_only=read_only, tries=tries - 1)
                if "locked" in str(error):
                    _check_locks(path.parent)
                _raise(error)
            except (sqlite3.Error, UnicodeDecodeError) as error:
                # SQLite's message about a damaged file can hold bytes of the file.
                raise CatalogUnusable(f"this is not a catalog: {error}") from error
            if identity != [APPLICATION_ID, VERSION]:
                raise CatalogUnusable("another version of pitr wrote the catalog")
            stack.pop_all()
        return cls(connection)

    def finish(self) -> None:
        """Create the indexes of a `quick` catalog."""
        with self._errors():
            writing.create_indexes(self._connection)
            writing.name_vms(self._connection)
            self._quick = False

    def copy_in_memory(self) -> Catalog:
        """Return a copy in memory, which is writable even if the file is not."""
        connection = sqlite.connect_in_memory()
        self.copy_into(connection)
        copy = Catalog(connection)
        copy.instead = self.instead
        return copy

    def copy_into(self, connection: sqlite3.Connection) -> None:
        """Replace the content of another database by a consistent copy, even if other processes write meanwhile."""
        with self._errors():
            self._connection.backup(connection)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            _raise(error)
        except UnicodeDecodeError as error:
            # SQLite's message about a damaged file holds bytes of the file.
            raise RepositoryError(f"the catalog cannot be used: {error}", _REBUILD) from error

    # Writing

    def add(
        self,
        entries: Sequence[tuple[Backup, str, StoredObject]],
        *,
        is_there: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """Add backups with their records' names, sizes and digests, all or none.

        Skips a record if `is_there` returns False, because another process removed it meanwhile.
        """
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                insertion = writing.Insertion(self._connection, quick=self._quick)
                for backup, name, record in entries:
                    if is_there(name):
                        insertion.add(backup, record)
                insertion.finish()
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def remove(self, backup_ids: Sequence[str], delete: Callable[[], None]) -> None:
        """Remove backups, then call `delete` to remove their records, while no other process can add backups.

        The catalog never lists a removed record, even after an interruption, because that would be damage.
        """
        with self._errors():
            while True:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    # Another process may have read the records earlier and added them since.
                    again = writing.delete(self._connection, backup_ids)
                    if not again:
                        delete()
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
                if not again:
                    return

    # Reading

    def known(self, vm_id: str | None = None) -> dict[str, Known]:
        """Return the known records by name, of one VM; of all VMs for None."""
        where, values = _of_vm(vm_id)
        return {known.name: known for known in map(_known, self._all(f"{_RECORDS} {where}", values))}

    def record_names(self, vm_id: str | None = None) -> set[str]:
        """Return the names of the known records, of one VM; of all VMs for None."""
        return set(self.known(vm_id))

    def known_record(self, backup_id: str) -> Known | None:
        """Return the known record of a backup; None for an unknown backup."""
        query = f"{_RECORDS} WHERE {_ID} = ?"
        return next(map(_known, self._all(query, [backup_id])), None)

    def vms(self) -> list[VMName]:
        """Return all VMs with their latest names, by name."""
        vm_rows = self._all("SELECT id, name FROM vm_row ORDER BY name, id")
        return [rows.vm_from(row["id"], row["name"]) for row in vm_rows]

    def vm_ids(self) -> set[str]:
        """Return the ids of all VMs."""
        return {row[0] for row in self._all("SELECT id FROM vm_row")}

    def vms_named(self, name: str) -> list[VMName]:
        """Return the VMs with this id or this latest name."""
        vm_rows = self._all("SELECT id, name FROM vm_row WHERE ? IN (id, name) ORDER BY id", [name])
        return [rows.vm_from(row["id"], row["name"]) for row in vm_rows]

    def only_imported(self) -> set[str]:
        """Return the ids of the VMs that pitr has never backed up: all their points were imported."""
        query = """
            SELECT id FROM vm_row
            WHERE NOT EXISTS (SELECT 1 FROM point_row WHERE vm = vm_row.number AND mode <> ?)
        """
        return {row["id"] for row in self._all(query, [Mode.IMPORTED.value])}

    def vms_once_named(self, name: str) -> list[VMName]:
        """Return the VMs that previously had this name and have another one now, by that name."""
        query = """
            SELECT vm_row.id, vm_row.name FROM name_row JOIN vm_row ON vm_row.number = name_row.vm
            WHERE name_row.name = ?1 AND vm_row.name IS NOT ?1
            AND EXISTS (SELECT 1 FROM point_row WHERE vm = vm_row.number AND vm_name = ?1)
            ORDER BY vm_row.name, vm_row.id
        """
        return [rows.vm_from(row["id"], row["name"]) for row in self._all(query, [name])]

    def points(self, vm_id: str | None = None) -> list[Backup]:
        """Return the backups of a VM, newest first; of all VMs for None."""
        where, values = _of_vm(vm_id)
        return self._backups(where, values)

    def get(self, backup_id: str) -> Backup | None:
        """Return a backup by its id; None for an unknown one."""
        return next(iter(self._backups(f"WHERE {_ID} = ?", [backup_id])), None)

    def owner_of(self, stream_id: str) -> Backup | None:
        """Return the backup with this stream; None for an unknown one."""
        owner = f"SELECT point FROM stream_row WHERE {text_of('stream_id')} = ?"  # noqa: S608
        return next(iter(self._backups(f"WHERE p.number IN ({owner})", [stream_id])), None)

    def newest_with_disk(self, disk_ids: Collection[str]) -> Backup | None:
        """Return the newest backup of any VM with one of these disks; None without one."""
        disks = "SELECT number FROM disk_row WHERE id IN (SELECT value FROM json_each(?))"
        owners = f"SELECT point FROM stream_row WHERE disk IN ({disks})"  # noqa: S608
        chosen = self._backups(f"WHERE p.number IN ({owners})", [json.dumps(sorted(disk_ids))], limit=1)
        return next(iter(chosen), None)

    def stand_in(self, backup_id: str) -> Backup | None:
        """Return the synthetic backup that stands for this one, whether this one is known or not; None without one."""
        return next(iter(self._backups("WHERE p.stands_for = ?", [packed_id(backup_id)])), None)

    def with_prefix(self, prefix: str) -> list[Backup]:
        """Return at most ten backups whose id begins with `prefix`."""
        return self._backups(f"WHERE {_ID} >= ? AND {_ID} < ?", [prefix, f"{prefix}\U0010ffff"], limit=10)

    def newest_until(self, vm_id: str, time: datetime) -> Backup | None:
        """Return the VM's newest backup with `point <= time`."""
        return self._nearest(vm_id, "max(point)", "point <= ?", time, 0)

    def first_after(self, vm_id: str, time: datetime) -> Backup | None:
        """Return the VM's oldest backup with `point > time`."""
        return self._nearest(vm_id, "min(point)", "point > ?", time, -1)

    def _nearest(self, vm_id: str, which: str, where: str, time: datetime, position: int) -> Backup | None:
        nearest = f"SELECT {which} FROM point_row WHERE vm = v.number AND {where}"  # noqa: S608
        backups = self._backups(f"WHERE v.id = ? AND p.point = ({nearest})", [vm_id, packed_time(time)])
        return backups[position] if backups else None

    def descendants(self, backup_id: str) -> list[str]:
        """Return the ids of the backups based on this one, oldest first, including its own."""
        return _ids(self._all(DESCENDANTS, [packed_id(backup_id), backup_id]))

    def latest_in_chain(self, backup_id: str) -> Backup | None:
        """Return the backup with the latest `point` of this one and those it is based on."""
        ids = _ids(self._all(LATEST_IN_CHAIN, [backup_id]))
        return self.get(ids[0]) if ids else None

    def dependants(self, stream_id: str) -> list[str]:
        """Return the ids of the backups with this stream or a stream based on it, oldest first.

        A stream is also based on the streams whose frames it uses. The stream itself may be unknown, because its record
        is lost.
        """
        return _ids(self._all(DEPENDANTS, [packed_id(stream_id), stream_id]))

    def of_other_vms(self, vm_id: str, stream_ids: Collection[str]) -> set[str]:
        """Return those of the streams that other VMs than this one have, or whose frames they use."""
        found = {row[0] for row in self._all(OF_OTHER_VMS, [json.dumps(list(stream_ids)), vm_id])}
        return found | self._users_of(stream_ids, OTHER_USERS, [vm_id])

    def used_as_parts(self, stream_ids: Collection[str]) -> set[str]:
        """Return which of these streams have frames that other streams use."""
        return self._users_of(stream_ids, USERS, [])

    def _users_of(self, stream_ids: Collection[str], query: str, values: Sequence[str]) -> set[str]:
        used: set[str] = set()
        packed = [packed_id(stream_id) for stream_id in stream_ids]
        for start in range(0, len(packed), _AT_ONCE):
            some = packed[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            used |= {id_text(row[0]) for row in self._all(query.format(marks=marks), [*some, *values])}
        return used

    def query(self, sql: str) -> Rows:
        """Run a read-only query. Return the names of the columns, and the rows. Raises UsageError, RepositoryError."""

        def run() -> Rows:
            with self._errors():
                return run_query(self._connection, sql)

        return self._read(run)

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        """Return all rows of the views, in order."""
        return {
            table: [dict(row) for row in self._all(f"SELECT * FROM {table} ORDER BY 1, 2", [])]  # noqa: S608
            for table in _VIEWS
        }

    def has_vm(self, vm_id: str) -> bool:
        """Return whether the catalog knows a point of the VM with this id."""
        return bool(self._all("SELECT 1 FROM vm_row WHERE id = ?", [vm_id]))

    def _backups(self, where: str, values: list[Any], *, limit: int = -1) -> list[Backup]:
        """Return the backups that match `where`, newest first."""
        return self._read(lambda: self._read_backups(where, values, limit))

    def _read_backups(self, where: str, values: list[Any], limit: int) -> list[Backup]:
        chosen = f"{_POINTS} {where} ORDER BY p.point DESC, p.backup_id DESC LIMIT ?"
        points = self._all(chosen, [*values, limit])
        if not points:
            return []
        streams: dict[int, list[sqlite3.Row]] = defaultdict(list)
        left_out: dict[int, list[sqlite3.Row]] = defaultdict(list)
        # One query for the streams of all backups instead of one for each backup.
        for table, order_by, found in (
            ("stream_row", "position", streams),
            ("left_out_row", "disk_row.id", left_out),
        ):
            query = f"""
                SELECT t.*, disk_row.id AS disk_id FROM {table} AS t JOIN disk_row ON disk_row.number = t.disk
                WHERE t.point IN (SELECT number FROM ({chosen})) ORDER BY t.point, {order_by}
            """  # noqa: S608
            for row in self._all(query, [*values, limit]):
                found[row["point"]].append(row)
        try:
            backups = [
                rows.backup_from(point, streams[point["number"]], left_out[point["number"]])
                for point in points
            ]
        except (IndexError, OverflowError, TypeError, ValueError) as error:
            # A changed byte in the file can change any value, and even a column's name.
            raise RepositoryError(f"the catalog cannot be used: {error}", _REBUILD) from error
        return by_lineage(backups)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query of this package."""
        return self._all(query, values)

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        def fetch() -> list[sqlite3.Row]:
            with self._errors():
                fetched: list[sqlite3.Row] = self._connection.execute(query, values).fetchall()
                return fetched

        return self._read(fetch)

    def _read(self, read: Callable[[], T]) -> T:
        """Call `read`, and again with the catalog that stands in for this one if it fails."""
        used = self._connection
        try:
            return read()
        except RepositoryError:
            with self._replacing:
                if self._connection is used:
                    other = self.instead() if self.instead is not None else None
                    if other is None:
                        raise
                    # Other threads may still use the old connection: its last user closes it.
                    self._connection, self.instead = other._connection, None
            return read()


def _of_vm(vm_id: str | None) -> tuple[str, list[str]]:
    """Return the SQL condition for the rows of a VM, and its values; no condition for None."""
    return ("", []) if vm_id is None else ("WHERE v.id = ?", [vm_id])


@refusing_damage
def _known(row: sqlite3.Row) -> Known:
    backup_id = id_text(row["backup_id"])
    name = names.record(row["vm_id"], time_of(row["point"]), backup_id)
    return Known(backup_id, name, StoredObject(row["record_size"], digest_text(row["record_digest"])))


def _ids(found: Sequence[sqlite3.Row]) -> list[str]:
    return [id_text(row["backup_id"]) for row in found]


class CatalogUnusable(RepositoryError):
    """The catalog file is missing or unusable; pitr can rebuild it from the records."""


def _check_locks(folder: Path) -> None:
    """Raise RepositoryError if the file system gives no locks: SQLite takes this for the lock of another process."""
    with suppress(BusyError), lock.share(folder / names.CATALOG_LOCK, "the catalog"):
        pass


def _raise(error: sqlite3.Error) -> NoReturn:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        raise RepositoryError("the catalog is locked by another process", "Try again in a moment.") from error
    raise RepositoryError(f"the catalog cannot be used: {error}", _REBUILD) from error
