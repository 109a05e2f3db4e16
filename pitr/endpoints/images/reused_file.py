# SPDX-License-Identifier: GPL-2.0-or-later
"""A raw image that exists already, and that a restore completes in place.

While it is not complete, it has the name of a partial file: an image under its own name is always whole.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pitr.endpoints.images.partial_file import SUFFIX, file_errors, hold
from pitr.endpoints.images.raw_file import MAX_CONNECTIONS, RawFileWriter
from pitr.errors import UsageError
from pitr.repository.store.naming import rename_no_replace, sync_folder


def reusable(target: Path) -> Path | None:
    """Return the file that a restore to `target` can complete: this one, or the partial file of an earlier restore.

    None if there is neither. Raises UsageError if there are both, or if it is not a regular file.
    """
    partial = target.with_name(target.name + SUFFIX)
    both = [path for path in (target, partial) if os.path.lexists(path)]
    if len(both) == 2:
        raise UsageError(
            f"{target} and {partial} both exist",
            f"{SUFFIX} marks a restore that did not end. Remove the one that you do not want to reuse.",
        )
    if not both:
        return None
    if both[0].is_symlink() or not both[0].is_file():
        raise UsageError(f"{both[0]} is not a regular file", "Name the image file itself, or another one.")
    return both[0]


class ReusedFileSink:
    """A sink that changes an existing raw image file in place and gives it `size` bytes. `flush` gives it its name.

    After `abort` the file stays, as a partial file that the next restore can complete. Raises UsageError if another
    process restores to it, PitrError when pitr cannot write.
    """

    reads_zero = False

    def __init__(self, target: Path, size: int) -> None:
        self._target = target.absolute()
        self._partial = self._target.with_name(self._target.name + SUFFIX)
        self._size = size
        found = reusable(self._target)
        if found is None:
            raise FileNotFoundError(self._target)
        with file_errors(found):
            self._descriptor = os.open(found, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                self._take(found)
                os.ftruncate(self._descriptor, size)
            except BaseException:
                self._close()
                raise

    @property
    def max_writers(self) -> int:
        return MAX_CONNECTIONS

    @property
    def name_while_open(self) -> str:
        """The name of the file until it is complete, without its folder."""
        return self._partial.name

    def open_writer(self) -> RawFileWriter:
        return RawFileWriter(self._partial, self._descriptor, self._size)

    def flush(self) -> None:
        with file_errors(self._target):
            os.fsync(self._descriptor)
            rename_image(self._partial, self._target)
        self._close()

    def abort(self) -> None:
        """Keep what is written: it is a partial file, and the next restore goes on with it."""
        self._close()

    def _take(self, found: Path) -> None:
        regular_file(self._descriptor, found)
        hold(self._descriptor, found)
        if found != self._partial:
            rename_image(found, self._partial)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def regular_file(descriptor: int, path: Path) -> None:
    """Raise UsageError if the open file `path` is not a regular one."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise UsageError(f"{path} is not a regular file", "Name the image file itself, or another one.")


def rename_image(old: Path, new: Path) -> None:
    """Give a file its other name, and make that durable. Raises UsageError if the new name is taken."""
    descriptor = os.open(old.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rename_no_replace(old.name, descriptor, new.name, descriptor)
        sync_folder(descriptor)
    except FileExistsError:
        raise UsageError(f"{new} already exists", "Remove it, and run the same command again.") from None
    finally:
        os.close(descriptor)
