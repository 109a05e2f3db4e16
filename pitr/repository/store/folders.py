# SPDX-License-Identifier: GPL-2.0-or-later
"""The folders of a store, opened without following symbolic links below its top folder.

Such a link would lead reads, writes and removals out of the repository. The path of the top folder itself may have
links. Each folder is opened relative to its open parent, so that none can become a link in between.
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
    """A symbolic link has the place of a folder or file of the repository."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(
            f"{path} is a symbolic link, and pitr follows none inside a repository",
            "Replace the link by the file or folder it points to. Only the repository's own folder may be a link.",
        )


class Folders:
    """Opens folders below `top` by names with "/", which the caller has checked; "" is `top` itself."""

    def __init__(self, top: Path) -> None:
        self.top = top

    @contextmanager
    def opened(self, name: str, *, to_read: bool = False) -> Iterator[int]:
        """Open the folder for the block. `to_read` also allows to list, lock and sync it.

        Raises LinkInside, FileNotFoundError, NotADirectoryError and other OSErrors.
        """
        handle = self._open(name, to_read=to_read)
        try:
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def of(self, name: str, *, to_read: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of the file `name` for the block. Return the folder and the file's name in it."""
        above, _, base = name.rpartition("/")
        with self.opened(above, to_read=to_read) as handle:
            yield handle, base

    def open_file(self, name: str, flags: int) -> int:
        """Open the file `name` in its folder. The caller closes it. Raises what `opened` raises."""
        above, _, base = name.rpartition("/")
        folder = self._open(above, to_read=False)
        try:
            return os.open(base, flags, dir_fd=folder)
        finally:
            os.close(folder)

    @contextmanager
    def within(self, handle: int, name: str) -> Iterator[int]:
        """Open the folder `name` for reading, in its open parent `handle`."""
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
        """Open the folder for reading. Create it and its missing parents durably first."""
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
            set_mode(part, _MODE, dir_fd=handle)  # a strict umask removes even the owner's permissions
            sync_folder(handle)


def open_folder(name: str | Path, flags: int = _TO_READ, within: int | None = None) -> int:
    """Open the folder `name` (in the open folder `within`). The caller closes it. Raises LinkInside, OSError."""
    try:
        return os.open(name, flags, dir_fd=within)
    except NotADirectoryError:
        # O_DIRECTORY with O_NOFOLLOW raises the same error for a link and for a file.
        if is_link(name, within):
            raise LinkInside(name) from None
        raise


def open_lock(folder: str | Path, name: str, within: int | None = None) -> int:
    """Open the lock file `name` in `folder` (in the open folder `within`), and create it if needed.

    The caller closes it. Raises LinkInside for a linked folder, OSError.
    """
    handle = open_folder(folder, within=within)
    try:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=handle)
    finally:
        os.close(handle)


def is_link(name: str | Path, within: int | None = None) -> bool:
    """Return whether `name` (in the open folder `within`) is a symbolic link."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode)
    except OSError:
        return False
