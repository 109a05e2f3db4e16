# SPDX-License-Identifier: GPL-2.0-or-later
"""The protection of a repository's objects from removal, where its store has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pitr import times
from pitr.repository.store import ObjectMissing

if TYPE_CHECKING:
    from datetime import datetime

    from pitr.repository.repository import Repository
    from pitr.repository.store.locked_store import LockedStore


def locked_store(repository: Repository) -> LockedStore | None:
    """Return the store if it protects objects."""
    if repository.lock is None:
        return None
    from pitr.repository.store.locked_store import LockedStore  # noqa: PLC0415 - few repositories need boto3

    store = repository.store
    if repository.keyring is not None:
        from pitr.repository.sealing.sealed_store import SealedStore  # noqa: PLC0415 - few are sealed

        store = store.inner if isinstance(store, SealedStore) else store
    return store if isinstance(store, LockedStore) else None


def stored_name(repository: Repository, name: str) -> str:
    """Return the name under which the store holds an object: sealed objects have another one."""
    if repository.keyring is None:
        return name
    from pitr.repository.sealing.sealed_store import stored_name as sealed_name  # noqa: PLC0415 - few are sealed

    return sealed_name(name)


def protected_until(repository: Repository, name: str) -> datetime | None:
    """Return until when nobody can remove the object; None if it can be removed now. Raises RepositoryError."""
    store = locked_store(repository)
    if store is None:
        return None
    try:
        until = store.protection(stored_name(repository, name))
    except ObjectMissing:
        return None
    return until if until is not None and until > times.now() else None
