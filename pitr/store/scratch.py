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
from contextlib import suppress
from pathlib import Path

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
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = None

    def _claim(self) -> Path:
        with suppress(FileExistsError):
            self._make(self._parent)
        self._sweep()
        while True:
            folder = self._parent / uuid.uuid4().hex
            try:
                self._make(folder)
                handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                # Another process has swept it already.
                continue
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another process may have swept the folder between its making and its locking.
            if os.fstat(handle).st_nlink and folder.is_dir():
                self._lock = handle
                return folder
            os.close(handle)

    @staticmethod
    def _make(folder: Path) -> None:
        folder.mkdir(mode=0o700)
        folder.chmod(0o700)  # a strict umask may have taken the owner's own rights away

    def _sweep(self) -> None:
        for folder in list(self._parent.iterdir()):
            if not _NAME.fullmatch(folder.name):
                continue
            try:
                # Made if need be: its owner may have died before it made one, or while it removed all this. One that
                # is alive, and has just made the folder, finds its lock gone and makes another.
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                handle = os.open(folder / _LOCK, flags, 0o600)
            except OSError:
                # Not a folder, or one that another process is removing.
                continue
            try:
                with suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
