# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run has to tell the next ones, as small objects beside the points.

Checkpoints that pitr has made on the engine: whoever finds one there that is not noted here leaves it alone. Disks
whose change tracking was found to be wrong: their next backup has to be a full one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from pitr.repository import names
from pitr.repository.store import ObjectExists, Store


def add_checkpoint(store: Store, vm_id: str, checkpoint_id: str) -> None:
    """Note a checkpoint as made by pitr."""
    with suppress(ObjectExists):
        store.create(names.checkpoint(vm_id, checkpoint_id), b"")


def remove_checkpoint(store: Store, vm_id: str, checkpoint_id: str) -> None:
    store.delete(names.checkpoint(vm_id, checkpoint_id))


def checkpoints(store: Store, vm_id: str) -> Iterator[str]:
    """The ids of the checkpoints that pitr has made of a VM and not removed."""
    yield from _ids(store, names.checkpoint(vm_id, ""))


def distrust(store: Store, vm_id: str, disk_id: str) -> None:
    """Note that the engine's word on what changed on a disk was wrong."""
    with suppress(ObjectExists):
        store.create(names.distrusted(vm_id, disk_id), b"")


def trust_again(store: Store, vm_id: str, disk_id: str) -> None:
    store.delete(names.distrusted(vm_id, disk_id))


def distrusted(store: Store, vm_id: str) -> Iterator[str]:
    """The ids of the disks of a VM that no incremental backup may be taken of."""
    yield from _ids(store, names.distrusted(vm_id, ""))


def _ids(store: Store, folder: str) -> Iterator[str]:
    for name in store.list(folder.rstrip("/")):
        yield name.rpartition("/")[2]
