# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of a catalog: opened, created and replaced, also while other processes use it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from pitr.errors import RepositoryError
from pitr.repository import lock, names
from pitr.repository.catalog import Catalog
from pitr.repository.catalog.catalog import CatalogUnusable
from pitr.repository.store import Store
from pitr.repository.store.naming import set_mode
from pitr.system.replace_file import move_file


def opened_file(path: Path, store: Store) -> Catalog:
    """Open a catalog file, or an empty catalog if it is missing or unusable. Raises RepositoryError."""
    if not writable(path):
        try:
            return Catalog.open(path, read_only=True)
        except RepositoryError:
            return Catalog.create(None)
    try:
        return Catalog.open(path)
    except CatalogUnusable:
        return _created(path, store)


def _created(path: Path, store: Store) -> Catalog:
    """Replace an unusable catalog file by an empty catalog. If that fails, return a catalog in memory."""
    try:
        with replacing(path):
            try:
                # Another process may have replaced it already.
                return Catalog.open(path)
            except CatalogUnusable:
                whole_mark(path).unlink(missing_ok=True)
                scratch = scratch_file(store)
                Catalog.create(scratch).close()
                replace(path, scratch)
                return Catalog.open(path)
    except (RepositoryError, OSError):
        return Catalog.create(None)


def whole_mark(path: Path) -> Path:
    """Return the path of the note that the catalog file has had all records."""
    return path.with_name(f"{path.name}.whole")


def replace_catalog(path: Path, scratch: Path) -> None:
    """Give a new catalog file its place. Raises RepositoryError, OSError."""
    with replacing(path):
        replace(path, scratch)


def replacing(path: Path) -> AbstractContextManager[None]:
    """Lock the catalog file for its replacement."""
    return lock.wait_for(path.parent / names.CATALOG_LOCK, "the catalog")


def scratch_file(store: Store) -> Path:
    """Create an empty scratch file for a catalog."""
    scratch = store.scratch_file()
    scratch.touch(mode=0o600)
    set_mode(scratch, 0o600)
    return scratch


def replace(path: Path, scratch: Path) -> None:
    """Give a new file the place of the old one; the caller holds `replacing`. Raises OSError."""
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    # First, so that SQLite never applies a journal of the old file to the new one after an interruption.
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    # The scratch files of a sealed repository may be on another file system.
    move_file(scratch, path)


def has_room(store: Store, path: Path) -> bool:
    """Return whether a new catalog as large as the file fits on the disk."""
    try:
        scratch = scratch_file(store)
        try:
            with scratch.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, max(1 << 16, path.stat().st_size))
        finally:
            store.drop_scratch(scratch)
    except (OSError, RepositoryError):
        return False
    return True


def writable(path: Path) -> bool:
    """Return whether SQLite can write the file."""
    # SQLite creates its journal in the folder.
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
