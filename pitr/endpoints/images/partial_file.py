# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that gets its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pitr.errors import PitrError, UsageError
from pitr.repository.store.naming import cannot, rename_no_replace, sync_folder

SUFFIX: Final = ".pitr-partial"


class PartialFile:
    """A new file `path` + ".pitr-partial" that `commit` renames to `path` and `abort` removes.

    The constructor creates the file, empty, with mode 0600. Raises UsageError when the target or the partial file
    already exists: another pitr may be writing it.
    """

    def __init__(self, target: Path) -> None:
        # Absolute, because qemu reads "name:rest" as a protocol.
        self.target = target.absolute()
        self.path = self.target.with_name(self.target.name + SUFFIX)
        self._refuse_existing()
        with file_errors(self.path):
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                raise UsageError(
                    f"{self.path} already exists",
                    "Another pitr is writing it or was killed. If no pitr is running, remove the file.",
                ) from None
        self._pending = True

    def commit(self) -> None:
        """Make the content durable, rename the file to its target, and make the new name durable."""
        with file_errors(self.target):
            with _opened(self.path, os.O_RDWR) as file:
                os.fsync(file)
            with _opened(self.target.parent, os.O_RDONLY | os.O_DIRECTORY) as folder:
                try:
                    rename_no_replace(self.path.name, folder, self.target.name, folder)
                except FileExistsError:
                    self._refuse_existing()
                    raise
                except OSError as error:
                    if not cannot(error):
                        raise
                    # The partial file keeps out another pitr; another program can still create the target in between.
                    self._refuse_existing()
                    self.path.rename(self.target)
                self._pending = False
                sync_folder(folder)

    def abort(self) -> None:
        """Remove the partial file. After `commit`, do nothing."""
        if self._pending:
            with file_errors(self.path):
                self.path.unlink(missing_ok=True)
            self._pending = False

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.target):
            raise UsageError(f"{self.target} already exists", "Name another file, or remove this one first.")


def hold(descriptor: int, path: Path) -> None:
    """Keep other restores out of an open file until it is closed. Raises UsageError if another one writes it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another pitr is writing {path}", "Wait until it has ended, or name another file."
        ) from None
    except OSError:
        # A file system without locks.
        return


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an OSError on `path` into a PitrError that names the path and gives advice."""
    try:
        yield
    except OSError as error:
        advice = ""
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            advice = "Free some space there, or name another place."
        elif error.errno == errno.EFBIG:
            advice = (
                "The file system does not allow files of this size (FAT: 4 GiB). Name a place on another one."
            )
        elif isinstance(error, FileNotFoundError) and not path.parent.exists():
            raise PitrError(
                f"the folder {path.parent} does not exist", "Create it, or name another place."
            ) from error
        raise PitrError(f"{path}: {error.strerror or error}", advice) from error


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
