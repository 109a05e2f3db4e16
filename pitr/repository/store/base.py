# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of stores. Objects are immutable: pitr writes each once under a name, reads it and deletes it.

Names are paths with "/". Their parts have letters, digits, ".", "_" and "-", and do not begin with a dot.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from pitr.errors import RepositoryError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_MAX_NAME = 1024
_SHORT_GAP = 4096


class ObjectMissing(RepositoryError):
    """No object has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing from the repository")
        self.name = name


class ObjectExists(RepositoryError):
    """An object with this name exists already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is in the repository already")
        self.name = name


def is_name(name: str) -> bool:
    """Return whether `name` is a valid name for an object."""
    return len(name) <= _MAX_NAME and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name`, which may be untrusted, if it is valid. Raises RepositoryError."""
    if not is_name(name):
        raise RepositoryError(f"invalid name for an object: {name[:100]!r}")
    return name


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as a list shows it: `written` is the time by the store's clock (UTC), which may lack fractions."""

    name: str
    size: int
    written: datetime


class NewObject(Protocol):
    """An object while it is written. `commit` creates it; without `commit`, the end of the block drops it."""

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`."""

    def commit(self) -> None:
        """Make the object durable under its name. Raises ObjectExists."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Batch(Protocol):
    """Objects that get their names at the same time, because many small syncs take long.

    Several threads may add objects. Without `settle`, the end of the block drops them, or some of them.
    """

    def new(self, name: str) -> NewObject:
        """Begin an object of any size. Its `commit` adds it to the batch."""

    def create(self, name: str, data: bytes) -> None:
        """Add a small object."""

    def settle(self) -> None:
        """Make all objects durable, then give them their names. One whose name is taken is dropped."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class StoredFile(Protocol):
    """An object opened for reading. Several threads may use it at once."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`, fewer only at the end of the object."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@runtime_checkable
class ReadsInto(Protocol):
    """An opened object whose bytes are on this machine, so that reading ahead is left to the system."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read bytes at `offset` into `buffer`; return their number, which is smaller only at the end of the object."""


class Store(Protocol):
    """Keeps objects: bytes under names. Raises RepositoryError for failures of the underlying system."""

    def new(self, name: str) -> NewObject:
        """Begin a new object of any size."""

    def replacing(self, name: str) -> NewObject:
        """Begin an object that takes the place of one with the same name, if there is one, in one step.

        Only a repair may do this: all other objects are immutable.
        """

    def create(self, name: str, data: bytes) -> None:
        """Write a small object. Raises ObjectExists if the name is taken."""

    def batch(self) -> Batch:
        """Begin several objects, which `settle` makes durable together. The caller closes the batch."""

    def open(self, name: str) -> StoredFile:
        """Open an object, which the caller closes. Raises ObjectMissing."""

    def read(self, name: str, *, limit: int) -> bytes:
        """Read a small object. Raises ObjectMissing, and RepositoryError if it has more than `limit` bytes."""

    def size(self, name: str) -> int:
        """Return the object's size in bytes. Raises ObjectMissing."""

    def written(self, name: str) -> datetime:
        """Return when the object was written (UTC, by the store's clock). Raises ObjectMissing."""

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        """Yield the names of all objects in and below the folder `prefix`, in any order; skip other files.

        Skips names in `besides`, which is faster than filtering the result.
        """

    def listed(self, prefix: str) -> Iterator[ListedObject]:
        """Yield all objects in and below the folder `prefix`, in any order, with their sizes and times."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders in the folder `prefix`, in any order, even if they have no objects."""

    def counts(self, prefix: str) -> dict[str, int]:
        """Return the number of entries in each folder in the folder `prefix`, other files included.

        This is faster than `list`.
        """

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""

    def local_file(self, name: str) -> Path:
        """Return the path of a local file with the object's bytes, for libraries. Raises ObjectMissing."""

    def scratch_file(self) -> Path:
        """Return a path for a temporary local file, which the caller creates and `close` removes."""

    def drop_scratch(self, path: Path) -> None:
        """Remove a scratch file early, if possible."""

    def close(self) -> None: ...


def gap_of(file: object) -> int:
    """Return how many bytes between two ranges of a file are read rather than left out.

    A file whose reads are requests has an attribute `gap`: reading so many unused bytes is quicker than a request.
    """
    # Readers ask often: comparing the file with a protocol would take longer than reading a small frame.
    gap = getattr(file, "gap", _SHORT_GAP)
    return gap if isinstance(gap, int) else _SHORT_GAP


def is_far(file: object) -> bool:
    """Return whether each read of a file is a request, so that several should be under way at once."""
    return gap_of(file) > _SHORT_GAP


@runtime_checkable
class KeepsState(Protocol):
    """A store with local files, whose folder is known only after its first answers."""

    def keep_state_in(self, state: Path) -> None:
        """Keep scratch files and copies in this folder from now on."""


@runtime_checkable
class ReadsHeads(Protocol):
    """A store that is far away: the first bytes of an object and its size are one request."""

    def open_with_head(self, name: str, length: int) -> StoredFile:
        """Open an object and read its first `length` bytes. Raises what `open` and `read_at` raise."""


@runtime_checkable
class KeepsCopies(Protocol):
    """A store that is far away, with local copies of objects that libraries need as files."""

    def known_copy(self, name: str) -> Path | None:
        """Return the path of the local copy of an object, without asking whether it is still like the object."""

    def keep_copy(self, name: str, path: Path) -> None:
        """Keep a local copy of an object that was just written from this file, if there is room."""


def may_be_stored(store: Store, name: str, data: bytes) -> bool:
    """Return whether the store has a small object with these bytes, or cannot tell."""
    # A store that seals knows the bytes that it stored.
    sealed = getattr(store, "may_hold", None)
    if sealed is not None:
        return bool(sealed(name))
    try:
        return store.size(name) == len(data) and store.read(name, limit=len(data)) == data
    except ObjectMissing:
        return False
    except RepositoryError:
        return True
