# SPDX-License-Identifier: GPL-2.0-or-later
"""The folders of a store, never reached through a symbolic link below its top one.

Such a link would lead reads, writes and removals out of the repository. The top folder itself may be a link, or be
reached through some. Each folder on the way is opened in the one before, so that none can become a link in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pitr.errors import RepositoryError
from pitr.repository.store.naming import set_mode, sync_folder

_MODE = 0o700
_TO_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkInside(RepositoryError):
    """A symbolic link lies where a repository has a folder or a file of its own."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(
            f"{path} is a symbolic link: none is followed inside a repository",
            "Put what it names in its place. The repository's own folder may be a link.",
        )


class Folders:
    """Opens folders below `top`, by names with "/" that the caller has checked; "" is `top` itself."""

    def __init__(self, top: Path) -> None:
        self.top = top

    @contextmanager
    def opened(self, name: str, *, to_read: bool = False) -> Iterator[int]:
        """A handle for the block: to open what lies in the folder, with `to_read` also to list, lock or sync it.

        Raises LinkInside, FileNotFoundError, NotADirectoryError, and OSError.
        """
        handle = self._open(name, to_read=to_read)
        try:
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def of(self, name: str, *, to_read: bool = False) -> Iterator[tuple[int, str]]:
        """The opened folder that the file `name` is in, and its name there."""
        above, _, base = name.rpartition("/")
        with self.opened(above, to_read=to_read) as handle:
            yield handle, base

    @contextmanager
    def within(self, handle: int, name: str) -> Iterator[int]:
        """The folder `name`, opened to read in the open folder `handle` that it lies in."""
        try:
            inner = open_folder(name.rpartition("/")[2], within=handle)
        except LinkInside:
            raise LinkInside(self.top / name) from None
        try:
            yield inner
        finally:
            os.close(inner)

    @contextmanager
    def made(self, name: str) -> Iterator[int]:
        """The same to read, after making the folder, and what is missing above it, durably."""
        try:
            handle = self._open(name, to_read=True)
        except FileNotFoundError:
            self._make(name)
            handle = self._open(name, to_read=True)
        try:
            yield handle
        finally:
            os.close(handle)

    def _open(self, name: str, *, to_read: bool) -> int:
        parts = name.split("/") if name else []
        last = _TO_READ if to_read else _TO_PASS
        handle = os.open(self.top, (_TO_PASS if parts else last) & ~os.O_NOFOLLOW)
        for number, part in enumerate(parts, 1):
            try:
                inner = open_folder(part, last if number == len(parts) else _TO_PASS, handle)
            except LinkInside:
                raise LinkInside(self.top.joinpath(*parts[:number])) from None
            finally:
                os.close(handle)
            handle = inner
        return handle

    def _make(self, name: str) -> None:
        if not name:
            raise FileNotFoundError(f"there is no folder {self.top}")
        parent, _, part = name.rpartition("/")
        with self.made(parent) as handle, suppress(FileExistsError):
            os.mkdir(part, _MODE, dir_fd=handle)
            set_mode(part, _MODE, dir_fd=handle)  # a strict umask may have taken the owner's own rights away
            sync_folder(handle)


def open_folder(name: str | Path, flags: int = _TO_READ, within: int | None = None) -> int:
    """Open the folder `name` (in the open folder `within`), which the caller closes. Raises LinkInside, OSError."""
    try:
        return os.open(name, flags, dir_fd=within)
    except NotADirectoryError:
        # What O_DIRECTORY and O_NOFOLLOW say together of a link, and of a file.
        if is_link(name, within):
            raise LinkInside(name) from None
        raise


def is_link(name: str | Path, within: int | None = None) -> bool:
    """Whether there is a symbolic link of this name (in the open folder `within`)."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
    except OSError:
        return False
