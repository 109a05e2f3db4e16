# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups that were begun on the engine: their ids are written down before, so that a crash can be cleaned up after.

An entry is an object like others: created once, and deleted when the engine has ended the backup.
"""

from __future__ import annotations

from collections.abc import Iterator

from pitr.repository import names
from pitr.repository.store import Store


def add(store: Store, vm_id: str, backup_id: str) -> None:
    store.create(names.pending(vm_id, backup_id), b"")


def remove(store: Store, vm_id: str, backup_id: str) -> None:
    store.delete(names.pending(vm_id, backup_id))


def of_vm(store: Store, vm_id: str) -> Iterator[str]:
    """The ids of the backups of a VM that may still be open on the engine."""
    for name in store.list(names.pending_of(vm_id)):
        yield name.rpartition("/")[2]
