# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of one run for later runs, as small objects beside the points.

One kind names the checkpoints that pitr created on the engine; pitr never removes other checkpoints. The other kind
names the disks whose change tracking was wrong; their next backup must be a full.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from pitr.repository import names
from pitr.repository.store import ObjectExists, Store


def add_checkpoint(store: Store, vm_id: str, checkpoint_id: str) -> None:
    """Note that pitr created a checkpoint."""
    with suppress(ObjectExists):
        store.create(names.checkpoint(vm_id, checkpoint_id), b"")


def remove_checkpoint(store: Store, vm_id: str, checkpoint_id: str) -> None:
    """Delete the note of a checkpoint."""
    store.delete(names.checkpoint(vm_id, checkpoint_id))


def checkpoints(store: Store, vm_id: str) -> Iterator[str]:
    """Yield the ids of the VM's checkpoints that pitr created and has not removed."""
    yield from _ids(store, names.checkpoint(vm_id, ""))


def distrust(store: Store, vm_id: str, disk_id: str) -> None:
    """Note that the engine reported wrong changes of a disk."""
    with suppress(ObjectExists):
        store.create(names.distrusted(vm_id, disk_id), b"")


def trust_again(store: Store, vm_id: str, disk_id: str) -> None:
    """Delete the note of a distrusted disk."""
    store.delete(names.distrusted(vm_id, disk_id))


def distrusted(store: Store, vm_id: str) -> Iterator[str]:
    """Yield the ids of the VM's disks that need a full backup next."""
    yield from _ids(store, names.distrusted(vm_id, ""))


def _ids(store: Store, folder: str) -> Iterator[str]:
    for name in store.list(folder.rstrip("/")):
        yield name.rpartition("/")[2]
