# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disk took the place of which, as small objects beside the points.

A restore puts new disks, with new ids, in the place of a VM's old disks. Without these notes a disk's id, or a name
that had to change, would find only the points of one of the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from pitr.repository import names
from pitr.repository.store import ObjectExists, Store


@dataclass(frozen=True, slots=True)
class Successions:
    """The pairs (old disk id, new disk id) of one VM."""

    pairs: frozenset[tuple[str, str]]

    def family(self, disk_ids: Iterable[str]) -> frozenset[str]:
        """Return these disks with all their predecessors and successors."""
        family = set(disk_ids)
        size = 0
        while size != len(family):
            size = len(family)
            for old, new in self.pairs:
                if old in family or new in family:
                    family |= {old, new}
        return frozenset(family)


def add(store: Store, vm_id: str, old_id: str, new_id: str) -> None:
    """Note that disk `new_id` took the place of disk `old_id` in the VM. Raises RepositoryError."""
    with suppress(ObjectExists):
        store.create(names.succession(vm_id, old_id, new_id), b"")


def of_vm(store: Store, vm_id: str) -> Successions:
    """Return the successions of the VM's disks. Raises RepositoryError."""
    pairs = set()
    for name in store.list(names.successions_of(vm_id)):
        *_, old_id, new_id = name.split("/")
        pairs.add((old_id, new_id))
    return Successions(frozenset(pairs))
