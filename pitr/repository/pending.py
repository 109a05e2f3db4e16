# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of backups that may be open on the engine, so that a later run can clean up after a crash.

pitr writes the note before it starts the backup, and ends it when the engine has ended the backup.
"""

from __future__ import annotations

from collections.abc import Iterator

from pitr.repository.pairs import PENDING, Lists
from pitr.repository.store import Store


def add(store: Store, vm_id: str, backup_id: str) -> None:
    """Note a backup before it starts."""
    PENDING.begin(store, vm_id, backup_id)


def end(store: Store, vm_id: str, backup_id: str) -> None:
    """Note that a backup has ended."""
    PENDING.end(store, vm_id, backup_id)


def of_vm(store: Lists, vm_id: str) -> Iterator[str]:
    """Yield the ids of the VM's backups that may still be open on the engine."""
    for _, backup_id in PENDING.open(store, vm_id):
        yield backup_id


def vms(store: Store) -> list[str]:
    """Return the ids of the VMs that have such a backup."""
    return sorted({vm_id for vm_id, _ in PENDING.open(store)})
