# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host knows of the protection of objects. Losing it costs a request for each object."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path


class KnownProtection:
    """Until when objects are protected, in a SQLite file; an unusable file knows nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def note(self, name: str, until: datetime) -> None:
        """Note that an object is protected until then."""
        self._ask("INSERT OR REPLACE INTO protection VALUES (?, ?)", (name, int(until.timestamp())))

    def of(self, names: Iterable[str]) -> dict[str, datetime]:
        """Return what is known of these objects."""
        wanted = set(names)
        rows = self._ask("SELECT name, until FROM protection")
        return {name: datetime.fromtimestamp(until, UTC) for name, until in rows if name in wanted}

    def forget(self, name: str) -> None:
        """Forget an object that was removed."""
        self._ask("DELETE FROM protection WHERE name = ?", (name,))

    def _ask(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[str, int]]:
        with self._lock:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with closing(sqlite3.connect(self._path, timeout=5, isolation_level=None)) as database:
                    database.execute("PRAGMA synchronous = OFF")
                    database.execute(
                        "CREATE TABLE IF NOT EXISTS protection (name TEXT PRIMARY KEY, until INTEGER NOT NULL)"
                        " WITHOUT ROWID"
                    )
                    return database.execute(statement, values).fetchall()
            except (OSError, sqlite3.Error):
                return []
