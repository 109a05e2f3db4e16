# SPDX-License-Identifier: GPL-2.0-or-later
"""What a repository asks of a store. Objects are immutable: written once under a name, read, deleted.

Names are paths with "/" of parts made of letters, digits, ".", "_" and "-"; no part begins with a dot.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pitr.errors import RepositoryError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_MAX_NAME = 1024


class ObjectMissing(RepositoryError):
    """No object has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing from the repository")
        self.name = name


class ObjectExists(RepositoryError):
    """The name is taken already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is in the repository already")
        self.name = name


def is_name(name: str) -> bool:
    """Whether `name` can name an object."""
    return len(name) <= _MAX_NAME and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name` if it can name an object. Raises RepositoryError: names may come from outside."""
    if not is_name(name):
        raise RepositoryError(f"not a name for an object: {name[:100]!r}")
    return name


class NewObject(Protocol):
    """An object that is being written. It exists from `commit` on; leaving the block without it drops it."""

    def write(self, data: bytes | memoryview) -> None: ...

    def commit(self) -> None:
        """Make the object durable under its name. Raises ObjectExists."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class StoredFile(Protocol):
    """An object opened for reading, by any number of threads at once."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes; fewer only at the end of the object."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Store(Protocol):
    """Bytes under names. Failures of the system below are raised as RepositoryError."""

    def new(self, name: str) -> NewObject:
        """Begin a new object of any size."""

    def create(self, name: str, data: bytes) -> None:
        """Write a small object, only if there is none of this name yet (else ObjectExists)."""

    def open(self, name: str) -> StoredFile:
        """Open an object. Raises ObjectMissing."""

    def read(self, name: str, *, limit: int) -> bytes:
        """Read a small object whole. Raises ObjectMissing, and RepositoryError when it is larger than `limit`."""

    def size(self, name: str) -> int:
        """Size in bytes. Raises ObjectMissing."""

    def written(self, name: str) -> datetime:
        """When the object was written (UTC, by the store's clock). Raises ObjectMissing."""

    def list(self, prefix: str, *, besides: Container[str] = ()) -> Iterator[str]:
        """The names of all objects in the folder `prefix` and below, in any order; what else lies there is skipped.

        Names in `besides` are left out, which is quicker than to leave them out afterwards.
        """

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders right in the folder `prefix`, in any order; of those without an object perhaps."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""

    def local_file(self, name: str) -> Path:
        """A path of a local file with the object's bytes, for libraries that read files. Raises ObjectMissing."""

    def scratch_file(self) -> Path:
        """A path for a temporary local file that the caller makes; it is gone when the store is closed."""

    def drop_scratch(self, path: Path) -> None:
        """Remove a scratch file early; one that cannot be removed now goes when the store is closed, or later."""

    def close(self) -> None: ...
