# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a query that a user typed on the catalog, without a chance to change anything."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

from pitr.errors import UsageError

Rows = tuple[list[str], list[tuple[Any, ...]]]
"""The names of the columns of a query, and its rows."""

#: Errors of the file, not of the query.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


def run_query(connection: sqlite3.Connection, sql: str) -> Rows:
    """Run a read-only query. Raises UsageError for a wrong query, and sqlite3.Error for a file that cannot be read."""
    connection.execute("PRAGMA query_only = ON")
    # query_only protects only this file. ATTACH, which VACUUM INTO uses too, would create other files.
    connection.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
    )
    try:
        cursor = connection.execute(sql)
        columns = [column[0] for column in cursor.description or ()]
        return columns, [tuple(row) for row in cursor.fetchall()]
    except (sqlite3.Error, sqlite3.Warning) as error:
        if getattr(error, "sqlite_errorcode", None) in _DAMAGED:
            raise
        raise UsageError(f"the query failed: {error}", "See schema/catalog.sql for the tables.") from error
    finally:
        connection.set_authorizer(None)
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA query_only = OFF")
