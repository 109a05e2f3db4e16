# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of one run for later runs, as small objects beside the points.

One kind names the checkpoints that pitr created on the engine; pitr never removes other checkpoints. The other kind
names the disks whose change tracking was wrong; their next backup must be a full.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from pitr.repository.pairs import CHECKPOINTS, DISTRUSTED, Lists
from pitr.repository.store import Store


def add_checkpoint(store: Store, vm_id: str, checkpoint_id: str) -> None:
    """Note that pitr created a checkpoint."""
    CHECKPOINTS.begin(store, vm_id, checkpoint_id)


def forget_checkpoint(store: Store, vm_id: str, checkpoint_id: str) -> None:
    """Note that a checkpoint is gone."""
    CHECKPOINTS.end(store, vm_id, checkpoint_id)


def checkpoints(store: Lists, vm_id: str) -> Iterator[str]:
    """Yield the ids of the VM's checkpoints that pitr created and has not removed."""
    for _, checkpoint_id in CHECKPOINTS.open(store, vm_id):
        yield checkpoint_id


def distrust(store: Store, vm_id: str, disk_id: str) -> None:
    """Note that the engine reported wrong changes of a disk."""
    if disk_id not in distrusted(store, vm_id):
        DISTRUSTED.begin(store, vm_id, disk_id, uuid.uuid4().hex)


def trust_again(store: Store, vm_id: str, disk_id: str) -> None:
    """End the distrust of a disk."""
    for key in list(DISTRUSTED.open(store, vm_id, disk_id)):
        DISTRUSTED.end(store, *key)


def distrusted(store: Lists, vm_id: str) -> set[str]:
    """Return the ids of the VM's disks that need a full backup next."""
    return {disk_id for _, disk_id, _ in DISTRUSTED.open(store, vm_id)}
