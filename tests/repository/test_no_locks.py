# SPDX-License-Identifier: GPL-2.0-or-later
"""A network file system without locks: the message says so, and what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from pitr.errors import RepositoryError
from pitr.model import VMName
from pitr.repository import Repository, sqlite
from tests.support.pitr import Pitr


@pytest.fixture
def no_locks(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_vm_cannot_be_locked(repository: Repository) -> None:
    with (
        pytest.raises(RepositoryError, match="No locks available") as caught,
        repository.lock_vm(VMName("11111111-0000-4000-8000-000000000001", "web1")),
    ):
        pass
    assert "NFS" in caught.value.advice


@pytest.mark.usefixtures("no_locks")
def test_a_catalog_that_sqlite_calls_locked(
    repository: Repository, command: Pitr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite reports a lock that it cannot get as one that another process holds."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.1)
    holder = sqlite3.connect(Path(repository.path) / "catalog.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        complaint = command("list", code=1).complaint
    finally:
        holder.close()
    assert "No locks available" in complaint and "NFS" in complaint
