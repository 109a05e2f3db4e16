# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of backups that may be open on the engine, so that a later run can clean up after a crash.

pitr writes the note before it starts the backup, and deletes it when the engine has ended the backup.
"""

from __future__ import annotations

from collections.abc import Iterator

from pitr.repository import names
from pitr.repository.store import Store


def add(store: Store, vm_id: str, backup_id: str) -> None:
    """Note a backup before it starts."""
    store.create(names.pending(vm_id, backup_id), b"")


def remove(store: Store, vm_id: str, backup_id: str) -> None:
    """Delete the note of an ended backup."""
    store.delete(names.pending(vm_id, backup_id))


def of_vm(store: Store, vm_id: str) -> Iterator[str]:
    """Yield the ids of the VM's backups that may still be open on the engine."""
    for name in store.list(names.pending_of(vm_id)):
        yield name.rpartition("/")[2]
