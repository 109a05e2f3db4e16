# SPDX-License-Identifier: GPL-2.0-or-later
"""The configurations of VMs, as objects of their own: a VM's changes seldom, and it is most of what a record has.

An object's name is the digest of its bytes. Records refer to it. Without it, a point has no configuration, but all its
disks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from blake3 import blake3

from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, Record, StoredObject
from pitr.repository import lock, names
from pitr.repository.damage import Damage, DamageKind, StoredDamage
from pitr.repository.store import ObjectExists, ObjectMissing, ObjectStoreError, Store

#: The largest configuration in bytes; it has no bound of its own.
MAX_SIZE = 64 << 20
_WHAT = "the VMs' configurations"


@runtime_checkable
class Seals(Protocol):
    """A store that seals configurations. Their names are the digests of the sealed bytes."""

    def sealed_configuration(self, plain: bytes) -> bytes:
        """Return the bytes to store."""

    def opened_configuration(self, stored: bytes) -> bytes:
        """Return the configuration. Raises NoFittingIdentity, FormatError."""


def encode(text: str) -> bytes:
    """Return the bytes of a configuration's object. Raises FormatError."""
    try:
        stored = text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"the VM's configuration is no text: {error}") from None
    if len(stored) > MAX_SIZE:
        raise FormatError(f"the VM's configuration has {len(stored)} bytes; pitr stores at most {MAX_SIZE}")
    return stored


def to_store(store: Store, text: str) -> bytes:
    """Return the bytes of a configuration's object in this store. Raises FormatError, RepositoryError."""
    plain = encode(text)
    return store.sealed_configuration(plain) if isinstance(store, Seals) else plain


def described(stored: bytes) -> StoredObject:
    """Return the size and digest of a configuration's object."""
    return StoredObject(len(stored), blake3(stored).hexdigest())


def referred_to(store: Store, new: Record) -> tuple[Backup, bytes | None]:
    """Return the backup with the reference to its configuration, and the bytes of that. Raises FormatError."""
    if new.configuration is None:
        return new.backup, None
    stored = to_store(store, new.configuration)
    return replace(new.backup, configuration=described(stored)), stored


@contextmanager
def stored(
    store: Store, state: Path, configuration: bytes | None, *, is_known: bool = False
) -> Iterator[bool]:
    """Store a configuration, and keep others from removing it while the block stores its record.

    `is_known`: a record that stays refers to it, so it is stored. The block gets whether the configuration is new.
    `state` is the folder of the repository's locks. Raises RepositoryError.
    """
    if configuration is None:
        yield True
        return
    # It may be an old one that no record refers to, and that is about to be removed.
    with lock.wait_to_share(state / names.CONFIGURATIONS_LOCK, _WHAT):
        yield not is_known and add(store, configuration)


def removing(state: Path) -> AbstractContextManager[None]:
    """Keep commits out while configurations are removed, which is to take a moment."""
    return lock.wait_for(state / names.CONFIGURATIONS_LOCK, _WHAT)


def add(store: Store, stored: bytes) -> bool:
    """Store a configuration unless it is stored already; replace a damaged one. Return whether it is new.

    Raises RepositoryError.
    """
    name = names.configuration(described(stored).digest)
    try:
        store.create(name, stored)
        return True
    except ObjectExists:
        if _is(store, name, stored):
            return False
    store.delete(name)
    store.create(name, stored)
    return True


def _is(store: Store, name: str, stored: bytes) -> bool:
    try:
        return store.size(name) == len(stored) and store.read(name, limit=len(stored)) == stored
    except ObjectMissing:
        return False


def read(store: Store, backup: Backup) -> str | None:
    """Return the configuration of a point's VM; None if it has none. Raises StoredDamage, NoFittingIdentity."""
    if backup.configuration is None:
        return None
    stored = _checked(store, backup, backup.configuration)
    try:
        return (store.opened_configuration(stored) if isinstance(store, Seals) else stored).decode()
    except (UnicodeDecodeError, FormatError) as error:
        raise _damage(backup, backup.configuration, "corrupt", f"it is no text: {error}") from None


def read_stored(store: Store, backup: Backup) -> bytes | None:
    """Return the stored bytes of the configuration, sealed or not; None if the point has none. Raises StoredDamage."""
    return None if backup.configuration is None else _checked(store, backup, backup.configuration)


def check(store: Store, backup: Backup) -> None:
    """Check the stored configuration of a point's VM, if it has one. Raises StoredDamage."""
    if backup.configuration is not None:
        _checked(store, backup, backup.configuration)


def _checked(store: Store, backup: Backup, expected: StoredObject) -> bytes:
    try:
        stored = store.read(names.configuration(expected.digest), limit=MAX_SIZE)
    except ObjectMissing:
        raise _damage(backup, expected, "missing", "it is missing") from None
    except ObjectStoreError:
        raise
    except RepositoryError as error:
        raise _damage(backup, expected, "corrupt", error.message) from error
    if len(stored) < expected.size:
        raise _damage(backup, expected, "truncated", f"it has {len(stored)} bytes instead of {expected.size}")
    if described(stored) != expected:
        raise _damage(backup, expected, "corrupt", "its digest does not match")
    return stored


def _damage(backup: Backup, expected: StoredObject, kind: DamageKind, message: str) -> StoredDamage:
    text = (
        f"configuration of VM {backup.vm.id}: {message} (backup {backup.backup_id}, "
        f"{names.configuration(expected.digest)}); its disks can be restored without it"
    )
    return StoredDamage(Damage(backup.backup_id, None, None, kind, "configuration", text))
