# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to SQLite files."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

BUSY_TIMEOUT_S = 30


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a database for writing. The caller closes it, and begins each transaction."""
    return _connect(path, "mode=rwc" if create else "mode=rw")


def connect_in_memory() -> sqlite3.Connection:
    """Open an empty database in memory. The caller closes it. Several threads may use it, like a file."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def connect_read_only(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a database for reading. The caller closes it. An `immutable` file never changes and needs no locks."""
    connection = _connect(path, "mode=ro&immutable=1" if immutable else "mode=ro")
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{options}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
