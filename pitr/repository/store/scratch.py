# SPDX-License-Identifier: GPL-2.0-or-later
"""Scratch files of one process, and the removal of scratch files that dead processes left behind.

Each process has its own folder with a lock file, which it holds while it lives. If another process can lock the file,
the folder's owner is dead.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pitr.errors import RepositoryError
from pitr.repository.store.folders import open_folder, open_lock
from pitr.repository.store.naming import set_mode

_LOCK = "lock"
_NAME = re.compile(r"[0-9a-f]{32}")


class Scratch:
    """Gives paths for scratch files below `parent`. Creates no folder before the first one."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder: Path | None = None
        self._lock = -1
        self._claiming = threading.Lock()

    def file(self) -> Path:
        """Return a new path for a file, which the caller creates."""
        # Several threads begin the disks of a backup at once.
        with self._claiming:
            if self._folder is None:
                self._folder = self._claim()
            return self._folder / uuid.uuid4().hex

    def folder_name(self, parent: str) -> str:
        """Return the name of this process's folder, which has scratch files, in `parent`."""
        if self._folder is None:
            raise ValueError("there are no scratch files")
        return f"{parent}/{self._folder.name}"

    def close(self) -> None:
        if self._folder is not None:
            # The next process removes the rest.
            with suppress(OSError, RepositoryError), self._opened() as parent:
                _remove(self._folder.name, parent, self._lock)
            self._folder = None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        handle = open_folder(self._parent)
        try:
            yield handle
        finally:
            os.close(handle)

    def _claim(self) -> Path:
        with suppress(FileExistsError):
            _make(self._parent)
        with self._opened() as parent:
            self._sweep(parent)
            while True:
                name = uuid.uuid4().hex
                try:
                    _make(name, parent)
                    handle = open_lock(name, _LOCK, within=parent)
                except FileNotFoundError:
                    # Another process removed the folder already.
                    continue
                fcntl.flock(handle, fcntl.LOCK_EX)
                # Another process may have removed the folder before this one locked it.
                if _is_lock_of(name, parent, handle):
                    self._lock = handle
                    return self._parent / name
                os.close(handle)

    @staticmethod
    def _sweep(parent: int) -> None:
        for name in os.listdir(parent):
            if not _NAME.fullmatch(name):
                continue
            try:
                # This creates a missing lock: the owner may have died before it created one, or while it removed the
                # folder. An owner that lives and has just created the folder notices, and creates another folder.
                handle = open_lock(name, _LOCK, within=parent)
            except (OSError, RepositoryError):
                # This is not a folder, or another process is removing it.
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
            else:
                _remove(name, parent, handle)


def is_scratch(path: Path) -> bool:
    """Return whether a folder's name is that of one process's scratch files."""
    return _NAME.fullmatch(path.name) is not None


def _make(folder: Path | str, within: int | None = None) -> None:
    os.mkdir(folder, 0o700, dir_fd=within)
    set_mode(folder, 0o700, dir_fd=within)  # a strict umask removes even the owner's permissions


def _is_lock_of(name: str, parent: int, handle: int) -> bool:
    """Return whether the open file `handle` still is the folder's lock. FUSE may rename a removed lock."""
    try:
        status = os.stat(f"{name}/{_LOCK}", dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(status, os.fstat(handle))


def _remove(name: str, parent: int, lock: int) -> None:
    """Remove a folder whose lock this process holds, and close the lock."""
    try:
        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)
    finally:
        os.close(lock)
    # FUSE and NFS keep an open file that was removed in its folder, under another name, until it is closed.
    with suppress(OSError):
        os.rmdir(name, dir_fd=parent)
