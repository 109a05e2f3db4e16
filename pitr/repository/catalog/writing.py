# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the catalog's tables: written and removed, in a transaction of the caller."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

from pitr.model import Backup, StoredObject, known_name
from pitr.repository import schema
from pitr.repository.catalog import rows
from pitr.repository.catalog.packed import packed_id
from pitr.repository.catalog.places import points_of, text_of

#: A row that another one with the same id precedes, as the unique indexes would have refused it.
_DOUBLES = (
    "DELETE FROM point_row WHERE number NOT IN (SELECT min(number) FROM point_row GROUP BY backup_id)",
    "DELETE FROM stream_row WHERE point NOT IN (SELECT number FROM point_row)",
    """
    DELETE FROM stream_row WHERE (point, position) IN (
        SELECT point, position FROM (
            SELECT point, position, row_number() OVER (PARTITION BY stream_id ORDER BY point, position) AS nth
            FROM stream_row
        ) WHERE nth > 1
    )
    """,
    "DELETE FROM left_out_row WHERE point NOT IN (SELECT number FROM point_row)",
    "DELETE FROM part_row WHERE (point, position) NOT IN (SELECT point, position FROM stream_row)",
)
_EMPTY = "NOT EXISTS (SELECT 1 FROM point_row WHERE point_row.vm = vm_row.number)"
_NEWEST_NAME = """
(SELECT vm_name FROM point_row WHERE vm = vm_row.number ORDER BY point DESC, backup_id DESC LIMIT 1)
"""


def indexes() -> list[tuple[str, str]]:
    """Return the names and statements of the indexes, which a catalog of many rows gets last."""
    found = re.finditer(r"^CREATE (?:UNIQUE )?INDEX (\w+) [^;]*;", schema.read("catalog.sql"), re.MULTILINE)
    return [(each[1], each[0]) for each in found]


def create_indexes(connection: sqlite3.Connection) -> None:
    """Create the indexes of a catalog that was written without them."""
    statements = [statement for _, statement in indexes()]
    try:
        for statement in statements:
            connection.execute(statement)
    except sqlite3.IntegrityError:
        # Two records claim one id. The first one counts, as in a catalog that has its indexes.
        for delete in _DOUBLES:
            connection.execute(delete)
        for name, statement in indexes():
            connection.execute(f"DROP INDEX IF EXISTS {name}")
            connection.execute(statement)


def name_vms(connection: sqlite3.Connection, numbers: Sequence[int] | None = None) -> None:
    """Give VMs the names of their newest points, and remove those without points; all VMs for None."""
    where, values = ("", []) if numbers is None else ("AND number IN (SELECT value FROM json_each(?))", [])
    if numbers is not None:
        values = [json.dumps(list(numbers))]
    gone = f"SELECT number FROM vm_row WHERE {_EMPTY} {where}"  # noqa: S608
    connection.execute(f"DELETE FROM name_row WHERE vm IN ({gone})", values)  # noqa: S608
    connection.execute(f"DELETE FROM vm_row WHERE number IN ({gone})", values)  # noqa: S608
    connection.execute(f"UPDATE vm_row SET name = {_NEWEST_NAME} WHERE true {where}", values)  # noqa: S608


class Insertion:
    """The insertion of backups in one transaction. A `quick` one writes nothing before `finish`."""

    def __init__(self, connection: sqlite3.Connection, *, quick: bool) -> None:
        self._connection = connection
        self._quick = quick
        self._vms: dict[str, int] = {}
        self._disks: dict[str, int] = {}
        self._last: dict[int, int] = {}
        self._named: set[tuple[str, int]] = set()
        self._waiting: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, backup: Backup, record: StoredObject) -> None:
        """Add a backup, unless one with its id is known."""
        name = known_name(backup.vm.name)
        vm = self._numbered("vm_row", backup.vm.id, self._vms, name)
        number = self._next_number(vm)
        self._waiting["point_row"].append({"number": number, "vm": vm, **rows.point_row(backup, record)})
        # Two processes may add the same new record.
        if not self._quick and not self._write("point_row"):
            return
        self._last[vm] = number
        if name is not None and (name, vm) not in self._named:
            self._waiting["name_row"].append({"name": name, "vm": vm})
            self._named.add((name, vm))
        for position, stream in enumerate(backup.streams):
            disk = self._numbered("disk_row", stream.disk_id, self._disks)
            self._waiting["stream_row"].append(
                {"point": number, "position": position, "disk": disk, **rows.stream_row(stream)}
            )
            for part in stream.parts:
                if part.stream_id != stream.stream_id:
                    used = {"stream_id": packed_id(part.stream_id), "disk_id": part.disk_id}
                    self._waiting["part_row"].append({**used, "point": number, "position": position})
        for left_out in backup.left_out:
            disk = self._numbered("disk_row", left_out.disk_id, self._disks)
            self._waiting["left_out_row"].append(
                {"point": number, "disk": disk, **rows.left_out_row(left_out)}
            )

    def finish(self) -> None:
        """Write what waits, and give the VMs their names."""
        for table in list(self._waiting):
            self._write(table)
        if not self._quick:
            name_vms(self._connection, sorted(self._vms.values()))

    def _numbered(self, table: str, text: str, known: dict[str, int], name: str | None = None) -> int:
        """Return the number of a VM or a disk. A new VM gets a name."""
        if text not in known:
            self._waiting[table].append({"id": text} if name is None else {"id": text, "name": name})
            self._write(table)
            query = f"SELECT number FROM {table} WHERE id = ?"  # noqa: S608
            known[text] = self._connection.execute(query, [text]).fetchone()[0]
        return known[text]

    def _next_number(self, vm: int) -> int:
        if vm not in self._last:
            low, high = points_of(vm)
            query = "SELECT max(number) FROM point_row WHERE number BETWEEN ? AND ?"
            last = self._connection.execute(query, [low, high]).fetchone()[0]
            self._last[vm] = low if last is None else last
        return self._last[vm] + 1

    def _write(self, table: str) -> int:
        """Insert the waiting rows that are missing. Return their number."""
        documents = self._waiting.pop(table, [])
        if not documents:
            return 0
        return self._connection.executemany(
            _insert_query(table, tuple(documents[0])), [tuple(document.values()) for document in documents]
        ).rowcount


@cache
def _insert_query(table: str, columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608


def delete(connection: sqlite3.Connection, backup_ids: Sequence[str]) -> bool:
    """Delete the rows of these backups. Return whether there were any."""
    found = connection.execute(
        f"SELECT number, vm FROM point_row WHERE {text_of('backup_id')} IN (SELECT value FROM json_each(?))",  # noqa: S608
        [json.dumps(list(backup_ids))],
    ).fetchall()
    numbers = json.dumps([row[0] for row in found])
    for table, column in (
        ("part_row", "point"),
        ("left_out_row", "point"),
        ("stream_row", "point"),
        ("point_row", "number"),
    ):
        query = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"  # noqa: S608
        connection.execute(query, [numbers])
    name_vms(connection, sorted({row[1] for row in found}))
    return bool(found)
