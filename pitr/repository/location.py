# SPDX-License-Identifier: GPL-2.0-or-later
"""Where repositories lie: in a folder, or below a prefix of a bucket; and the local state that belongs to them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pitr.errors import RepositoryError
from pitr.repository.store import PosixStore, Store
from pitr.repository.store.base import KeepsState
from pitr.repository.store.lock_rules import Lock
from pitr.repository.store.s3 import S3Location, open_store

Location = Path | S3Location


def text(location: Location) -> str:
    """Return the location as people write it."""
    return location.url if isinstance(location, S3Location) else str(location)


def full_text(location: Location) -> str:
    """Return the location in one form for all ways to write it: a folder's whole path, without links."""
    return text(location.resolve() if isinstance(location, Path) else location)


def opened(location: Location, state: Path, lock: Lock | None = None) -> Store:
    """Open the store at the location; the caller closes it. `state` as `state_of` returns it, `lock` as init chose.

    Raises ProgramMissing, UsageError.
    """
    return open_store(location, state, lock) if isinstance(location, S3Location) else PosixStore(location)


def settled(store: Store, location: Location, state: Path, lock: Lock | None) -> Store:
    """Return an open store with its state in `state`: this one, or another one that keeps the `lock`."""
    if not isinstance(location, S3Location):
        return store
    if lock is None and isinstance(store, KeepsState):
        store.keep_state_in(state)
        return store
    store.close()
    return open_store(location, state, lock)


def state_of(location: Location, repository_id: str) -> Path:
    """Return the folder for this host's catalog, locks, scratch files and copies of the repository.

    In a folder they lie beside the objects. For a bucket they are in the user's state folder: losing them costs time,
    nothing else. Raises RepositoryError.
    """
    if not isinstance(location, S3Location):
        return location
    folder = private_state(repository_id)
    with _creating(folder):
        (folder / "locks").mkdir(mode=0o700, exist_ok=True)
    return folder


def private_state(repository_id: str) -> Path:
    """Return the folder for what this user keeps of a repository outside of it. Raises RepositoryError."""
    folder = state_folder(repository_id)
    if folder is None:
        raise RepositoryError(
            "this user has no home folder for pitr's state", "Set XDG_STATE_HOME to a folder of this user."
        )
    with _creating(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def state_folder(repository_id: str) -> Path | None:
    """Return the path of that folder, which may not exist; None for a user without a home folder."""
    base = os.environ.get("XDG_STATE_HOME")
    try:
        parent = Path(base) if base else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return parent / "pitr" / repository_id


@contextmanager
def _creating(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"cannot create {folder}, the state of this host: {error.strerror}",
            "Set XDG_STATE_HOME to a folder that this user can write.",
        ) from error


def scratch_state() -> Path:
    """Return a folder for a store that only answers a few questions and keeps nothing."""
    return Path(tempfile.gettempdir()) / f"pitr-{os.getuid()}-state"
