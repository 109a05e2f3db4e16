# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog as a file for other hosts: written without indexes, and taken up again row by row.

A file from elsewhere is hostile. It must have exactly the tables that pitr writes, so that nothing but rows is read
from it, and every row must be a point that a record could describe.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, StoredObject
from pitr.repository import names, schema, sqlite
from pitr.repository.catalog import writing
from pitr.repository.catalog.catalog import APPLICATION_ID, VERSION, Catalog
from pitr.repository.catalog.packed import id_text
from pitr.repository.catalog.places import text_of

_TABLES = ("vm_row", "name_row", "disk_row", "point_row", "stream_row", "part_row", "left_out_row")
_VIEWS = ("point", "stream", "left_out")
_COMMENT = re.compile("--.*")
_QUICK = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
#: The number of a point begins with that of its VM, and every row belongs to another one.
_LOOSE = (
    "SELECT 1 FROM point_row WHERE number >> 32 <> vm OR vm NOT IN (SELECT number FROM vm_row)",
    "SELECT 1 FROM stream_row WHERE point NOT IN (SELECT number FROM point_row)",
    "SELECT 1 FROM left_out_row WHERE point NOT IN (SELECT number FROM point_row)",
    "SELECT 1 FROM part_row WHERE (point, position) NOT IN (SELECT point, position FROM stream_row)",
)


def write(
    catalog: Catalog, path: Path, repository_id: str, hidden: Sequence[tuple[Backup, str, StoredObject]]
) -> None:
    """Write all points of a catalog, and those that tombstones hide, to a new file. Raises RepositoryError."""
    try:
        with closing(sqlite.connect(path, create=True)) as connection:
            catalog.copy_into(connection)
            connection.executescript(_QUICK)
            for name, _ in writing.indexes():
                connection.execute(f"DROP INDEX IF EXISTS {name}")
            for view in _VIEWS:
                connection.execute(f"DROP VIEW {view}")
            connection.executescript(schema.read("snapshot.sql"))
            connection.execute("INSERT INTO snapshot VALUES (?)", [repository_id])
            connection.execute("BEGIN")
            insertion = writing.Insertion(connection, quick=True)
            for backup, _, record in hidden:
                insertion.add(backup, record)
            insertion.finish()
            mark = f"INSERT OR IGNORE INTO hidden_row SELECT number FROM point_row WHERE {text_of('backup_id')} = ?"  # noqa: S608
            connection.executemany(mark, [[backup.backup_id] for backup, _, _ in hidden])
            writing.name_vms(connection)
            connection.execute("COMMIT")
            connection.execute("VACUUM")
    except sqlite3.Error as error:
        raise RepositoryError(f"the snapshot of the catalog cannot be written: {error}") from error


def take(path: Path, into: Path, repository_id: str) -> set[str]:
    """Make a new catalog file of a snapshot. Return the ids of the points that were hidden.

    Raises FormatError for a file that pitr would not have written for this repository, and RepositoryError.
    """
    try:
        with (
            closing(sqlite.connect_read_only(path, immutable=True)) as connection,
            Catalog.create(into, quick=True) as fresh,
        ):
            connection.execute("PRAGMA cell_size_check = ON")
            _check_file(connection, repository_id)
            hidden = {number for (number,) in connection.execute("SELECT point FROM hidden_row")}
            _copy(connection, fresh)
            fresh.finish()
            _check_rows(fresh)
            return {id_text(row["backup_id"]) for row in _rows_of(fresh, hidden)}
    except (sqlite3.Error, UnicodeDecodeError, OverflowError, TypeError, ValueError) as error:
        raise FormatError(f"its content makes no sense: {error}") from error


def _check_file(connection: sqlite3.Connection, repository_id: str) -> None:
    identity = [
        connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("application_id", "user_version")
    ]
    if identity != [APPLICATION_ID, VERSION]:
        raise FormatError("another version of pitr wrote it")
    if _statements(connection) != _own_statements():
        raise FormatError("it has other tables than pitr writes")
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise FormatError("it is damaged")
    ids = [row[0] for row in connection.execute("SELECT repository_id FROM snapshot LIMIT 2")]
    if ids != [repository_id]:
        raise FormatError("it is of another repository")


def _statements(connection: sqlite3.Connection, where: str = "true") -> set[tuple[str, str, str]]:
    """Return the types, names and statements of what a file has, without comments and without SQLite's own indexes."""
    rows = connection.execute(f"SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND {where}")  # noqa: S608
    return {(kind, name, " ".join(_COMMENT.sub("", sql).split())) for kind, name, sql in rows}


@cache
def _own_statements() -> set[tuple[str, str, str]]:
    with closing(sqlite.connect_in_memory()) as connection:
        connection.executescript(schema.read("catalog.sql") + schema.read("snapshot.sql"))
        return _statements(connection, "type = 'table'")


def _copy(connection: sqlite3.Connection, fresh: Catalog) -> None:
    into = fresh._connection
    into.execute("BEGIN")
    for table in _TABLES:
        rows = connection.execute(f"SELECT * FROM {table}")  # noqa: S608
        marks = ", ".join("?" * len(rows.description))
        into.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608
    into.execute("COMMIT")


def _check_rows(catalog: Catalog) -> None:
    """Raise FormatError unless all rows can be of records."""
    if any(catalog.rows(f"{query} LIMIT 1") for query in _LOOSE):
        raise FormatError("its rows do not belong together")
    try:
        for query in ("SELECT id FROM vm_row", "SELECT id FROM disk_row", "SELECT stream_id FROM stream_row"):
            if not all(names.usable_id(id_text(row[0])) for row in catalog.rows(query)):
                raise FormatError("it has impossible ids")
        for vm in catalog.vms():
            for backup in catalog.points(vm.id):
                if names.usable_id(backup.backup_id) is None or not _is_plausible(backup):
                    raise FormatError("it has an impossible point")
            catalog.known(vm.id)
    except RepositoryError as error:
        raise FormatError(f"its rows make no sense: {error.message}") from error


def _is_plausible(backup: Backup) -> bool:
    """Return whether all values of a backup have the types that its code expects."""
    texts = [backup.vm.name, backup.consistency, backup.pitr_version]
    numbers = [backup.duration_ms]
    for stream in backup.streams:
        texts.append(stream.name)
        numbers += [stream.size, stream.frame_size, stream.data_bytes, stream.zero_bytes, stream.extents]
        numbers += [each.size for each in (stream.blob, stream.index, stream.index_copy) if each is not None]
        numbers += [part.live_bytes for part in stream.parts]
    optional = [backup.reason, *(text for stream in backup.streams for text in (stream.reason, stream.note))]
    return (
        bool(backup.streams)
        and backup.lo <= backup.point
        and all(isinstance(text, str) for text in texts)
        and all(text is None or isinstance(text, str) for text in optional)
        and all(isinstance(number, int) and number >= 0 for number in numbers)
    )


def _rows_of(catalog: Catalog, numbers: Collection[int]) -> Iterator[sqlite3.Row]:
    for number in sorted(numbers):
        yield from catalog.rows("SELECT backup_id FROM point_row WHERE number = ?", [number])
