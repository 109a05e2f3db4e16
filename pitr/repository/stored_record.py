# SPDX-License-Identifier: GPL-2.0-or-later
"""Read stored records."""

from __future__ import annotations

from blake3 import blake3

from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, StoredObject
from pitr.repository import canonical, names, record
from pitr.repository.damage import of_record
from pitr.repository.store import ObjectMissing, Store
from pitr.repository.store.object_errors import ObjectStoreError


def read(store: Store, name: str) -> tuple[Backup, StoredObject]:
    """Read a record by the name of its object, without the catalog. Raises StoredDamage."""
    return read_bytes(store, name)[:2]


def read_bytes(store: Store, name: str) -> tuple[Backup, StoredObject, bytes]:
    """Read a record as `read` does, and return its bytes, too. Raises StoredDamage."""
    of_backup = names.backup_of_record(name)
    try:
        stored = store.read(name, limit=canonical.MAX_SIZE)
    except ObjectMissing:
        raise of_record(of_backup, "missing", f"the record {name} is missing") from None
    except ObjectStoreError:
        # A store that does not answer says nothing about its objects.
        raise
    except RepositoryError as error:
        raise of_record(of_backup, "corrupt", error.message) from error
    try:
        backup = record.decode(stored)
    except FormatError as error:
        raise of_record(of_backup, "corrupt", f"the record {name} is damaged: {error.message}") from None
    if names.record(backup.vm.id, backup.point, backup.backup_id) != name:
        raise of_record(
            backup.backup_id,
            "inconsistent",
            f"the record {name} has the wrong name for backup {backup.backup_id}",
        )
    return backup, StoredObject(len(stored), blake3(stored).hexdigest()), stored
