# SPDX-License-Identifier: GPL-2.0-or-later
"""A new raw image file that several machines write at the same time, each its own ranges.

The machine that creates the file gives it its name once the others have closed it. A lock that all of them share tells
it so: a machine that does not answer may still write.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pitr.endpoints.images.partial_file import file_errors
from pitr.endpoints.images.raw_file import MAX_CONNECTIONS, RawFileSink, RawFileWriter
from pitr.errors import PitrError, UsageError

#: So long the creator waits for machines that it has lost.
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.2
_ALONE: Final = "Leave out --scheduler: then this machine writes the file."


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file that all machines must see at this path, with this size and number."""

    path: str
    inode: int
    size: int


class SharedFileSink(RawFileSink):
    """Creates the file, and gives it its name at the end. Raises PitrError if its file system has no locks."""

    def shared(self) -> SharedFile:
        """Let other machines write the file, too."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise PitrError(f"{self._path} cannot be locked: {error.strerror}", _ALONE) from error
        found = os.fstat(self._descriptor)
        return SharedFile(str(self._path), found.st_ino, found.st_size)

    def flush(self) -> None:
        """Wait until no other machine has the file open, then give it its name. Raises PitrError."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise PitrError(
                        f"a worker that does not answer may still be writing {self._path}",
                        "Stop it and restore again.",
                    ) from None
                time.sleep(_POLL_S)
        super().flush()


class SharedFilePart:
    """The sink of another machine. `flush` makes its writes durable and closes the file, which stays unnamed.

    Raises UsageError if this machine has another file there, or none.
    """

    max_writers = MAX_CONNECTIONS
    reads_zero = True

    def __init__(self, file: SharedFile) -> None:
        self._path = Path(file.path)
        self._size = file.size
        self._descriptor = -1
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found = os.fstat(self._descriptor)
        except OSError as error:
            self.abort()
            raise _not_shared(self._path, error.strerror or str(error)) from error
        if not stat.S_ISREG(found.st_mode) or (found.st_ino, found.st_size) != (file.inode, file.size):
            self.abort()
            raise _not_shared(self._path, "it is another file there")

    def open_writer(self) -> RawFileWriter:
        return RawFileWriter(self._path, self._descriptor, self._size)

    def flush(self) -> None:
        with file_errors(self._path):
            os.fsync(self._descriptor)
        self.abort()

    def abort(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _not_shared(path: Path, why: str) -> UsageError:
    return UsageError(
        f"a worker cannot write {path}: {why}",
        "Name a folder that all workers see at the same path and may write as their user, or leave out --scheduler.",
    )
