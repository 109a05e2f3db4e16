# SPDX-License-Identifier: GPL-2.0-or-later
"""Scratch files of one process, and the removal of those that dead processes have left.

Each process has a folder of its own with a lock file that it holds as long as it lives: a folder whose lock can be
taken belongs to nobody any more.
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
from pitr.repository.store.folders import open_folder
from pitr.repository.store.naming import set_mode

_LOCK = "lock"
_NAME = re.compile(r"[0-9a-f]{32}")


class Scratch:
    """Scratch files below `parent`. Nothing is made before the first file is asked for."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder: Path | None = None
        self._lock = -1
        self._claiming = threading.Lock()

    def file(self) -> Path:
        """A new path for a file that the caller creates."""
        # The disks of a backup are begun by several threads at once.
        with self._claiming:
            if self._folder is None:
                self._folder = self._claim()
            return self._folder / uuid.uuid4().hex

    def close(self) -> None:
        if self._folder is not None:
            # What cannot be removed now, the next process sweeps.
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
                    handle = _open_lock(name, parent)
                except FileNotFoundError:
                    # Another process has swept it already.
                    continue
                fcntl.flock(handle, fcntl.LOCK_EX)
                # Another process may have swept the folder between its making and its locking.
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
                # Made if need be: its owner may have died before it made one, or while it removed all this. One that
                # is alive, and has just made the folder, finds its lock gone and makes another.
                handle = _open_lock(name, parent)
            except (OSError, RepositoryError):
                # Not a folder, or one that another process is removing.
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
            else:
                _remove(name, parent, handle)


def _make(folder: Path | str, within: int | None = None) -> None:
    os.mkdir(folder, 0o700, dir_fd=within)
    set_mode(folder, 0o700, dir_fd=within)  # a strict umask may have taken the owner's own rights away


def _open_lock(name: str, parent: int) -> int:
    folder = open_folder(name, within=parent)
    try:
        return os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    finally:
        os.close(folder)


def _is_lock_of(name: str, parent: int, handle: int) -> bool:
    """Whether the open file `handle` still is the lock of the folder; removed, FUSE may keep it by another name."""
    try:
        status = os.stat(f"{name}/{_LOCK}", dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(status, os.fstat(handle))


def _remove(name: str, parent: int, lock: int) -> None:
    """Remove a folder whose lock is held, and close that."""
    try:
        shutil.rmtree(name, ignore_errors=True, dir_fd=parent)
    finally:
        os.close(lock)
    # FUSE and NFS keep a file that is removed while it is open by another name, in the folder, until it is closed.
    with suppress(OSError):
        os.rmdir(name, dir_fd=parent)
