# SPDX-License-Identifier: GPL-2.0-or-later
"""States that begin and end, each as two objects that are only ever created.

A state is open if its first object exists and its second one does not. So no writer must delete anything, which a
store may forbid. Prune removes both objects of the states that have ended. A key is used once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pitr.repository import names
from pitr.repository.store import ObjectExists, Store

#: A list of a bucket shows so many objects with one request.
_PAGE = 1000


class Lists(Protocol):
    """What lists the objects of states: a store, or what one list of it has shown."""

    def list(self, prefix: str, /) -> Iterator[str]:
        """Yield the names of all objects in and below a folder."""


class SeenStates:
    """The states of all VMs as one list showed them, until `forget`: a list for each kind takes more requests.

    More states than one request shows are listed by kind and VM.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # One page is of one moment, so the order of lists does not matter.
        seen = list(islice(store.list(names.CONTROL), _PAGE))
        self._seen: list[str] | None = seen if len(seen) < _PAGE else None

    def list(self, prefix: str, /) -> Iterator[str]:
        if self._seen is None:
            return self._store.list(prefix)
        return iter([name for name in self._seen if name.startswith(f"{prefix}/")])

    def forget(self) -> None:
        """Ask the store from now on: this process has changed states."""
        self._seen = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A kind of state: the folders of its first and its second objects, and the number of parts of a key.

    `rare`: most VMs have none, which one list shows.
    """

    begun: str
    ended: str
    parts: int
    rare: bool = False

    def begin(self, store: Store, *key: str) -> None:
        """Begin a state; one that has begun stays so."""
        with suppress(ObjectExists):
            store.create(names.control(self.begun, *key), b"")

    def end(self, store: Store, *key: str) -> None:
        """End a state; one that has ended stays so."""
        with suppress(ObjectExists):
            store.create(names.control(self.ended, *key), b"")

    def open(self, store: Lists, *under: str) -> Iterator[tuple[str, ...]]:
        """Yield the keys of the open states whose keys begin with `under`."""
        if self.rare and next(self._keys(store, self.begun, under), None) is None:
            return
        # In this order: prune removes first objects first, so none that has ended looks open.
        ended = set(self._keys(store, self.ended, under))
        yield from (key for key in self._keys(store, self.begun, under) if key not in ended)

    def collect(self, store: Store) -> None:
        """Remove both objects of all states that have ended. Raises RepositoryError."""
        for key in list(self._keys(store, self.ended, ())):
            store.delete(names.control(self.begun, *key))
            store.delete(names.control(self.ended, *key))

    def _keys(self, store: Lists, folder: str, under: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name in store.list(names.control(folder, *under)):
            key = tuple(name.split("/")[2:])
            if len(key) == self.parts:
                yield key


#: Backups that may be open on the engine: VM, backup.
PENDING = Pair("pending", "ended", 2)
#: Checkpoints on the engine that pitr created and has not removed: VM, checkpoint.
CHECKPOINTS = Pair("checkpoints", "forgotten", 2)
#: Disks whose change tracking was wrong: VM, disk, a random part, because a disk can be distrusted again.
DISTRUSTED = Pair("distrusted", "trusted", 3, rare=True)
#: New disks on the engine that a restore is writing: disk.
UPLOADS = Pair("uploads", "done", 1)
#: Disks that a rollback in place writes into: VM, disk, the undo point, the point to go back to, a random part.
ROLLBACKS = Pair("rollbacks", "rolled-back", 5, rare=True)
#: Disks that a rollback leaves detached: VM, old disk, the disk in its place, the undo point, the other point, random.
OLD_DISKS = Pair("old-disks", "discarded", 6, rare=True)
#: Swaps of disks by a rollback: VM, the random part of the keys of its OLD_DISKS.
SWAPS = Pair("swaps", "swapped", 2, rare=True)
ALL = (PENDING, CHECKPOINTS, DISTRUSTED, UPLOADS, ROLLBACKS, OLD_DISKS, SWAPS)
