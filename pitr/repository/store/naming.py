# SPDX-License-Identifier: GPL-2.0-or-later
"""Naming of complete files on any file system, without overwriting an existing file.

A plain rename overwrites. The ways that do not are tried in this order, until the file system supports one:

1. A hard link. FAT, exFAT, some CIFS shares and many FUSE file systems have none.
2. renameat2(RENAME_NOREPLACE), from Linux 3.15 and glibc 2.28. Some FUSE file systems do not know its flags.
3. A lock on the folder, a check that the name is free, and a rename. The lock ends with its process, so a crash leaves
   nothing behind. It excludes only processes on the same host.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

#: The errors of calls that the file system, the kernel or a sandbox does not support. EPERM also means refused
#: permission; then the next way fails too.
_CANNOT: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
_NO_REPLACE: Final = 1  # RENAME_NOREPLACE of linux/fs.h
_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h

Way = Callable[[str, int, str, int], None]


def cannot(error: OSError) -> bool:
    """Return whether a call may have failed because the file system does not support it."""
    return error.errno in _CANNOT


def set_mode(path: int | Path | str, mode: int, *, dir_fd: int | None = None) -> None:
    """Set the mode of an open file or a path, if the file system has modes."""
    try:
        os.chmod(path, mode, dir_fd=dir_fd)
    except OSError as error:
        # FAT has no modes; its mount options decide who may read. For another owner's file an earlier call fails.
        if not cannot(error):
            raise


class Naming:
    """Names files on one file system, and remembers which ways it supports. Several threads may use it at once."""

    def __init__(self) -> None:
        self._first = 0

    def give(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        """Give the file `source` in one folder the name `target` in another. Both folders are open for reading.

        The old name may remain; the caller removes it. Raises FileExistsError if the name is taken, and OSError.
        """
        for number in range(self._first, len(WAYS)):
            try:
                WAYS[number](source, source_folder, target, target_folder)
            except OSError as error:
                if number + 1 == len(WAYS) or not cannot(error):
                    raise
            else:
                # Remember a way only once it has worked, because EPERM may mean a missing permission.
                self._first = number
                return

    def sync(self, source_folder: int, target_folder: int) -> None:
        """Make the effect of `give` in these folders durable."""
        if self._first:
            # The old name is gone, which must be durable first. On FAT, a power failure that left both names would
            # leave two files with the same clusters, and removing one would free the other's.
            sync_folder(source_folder)
        sync_folder(target_folder)


def rename_no_replace(source: str, source_folder: int, target: str, target_folder: int) -> None:
    """Rename a file. Raises FileExistsError if the name is taken, and OSError (ENOSYS without renameat2)."""
    function = _renameat2()
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    import ctypes  # noqa: PLC0415 - most file systems have links, and most commands need no names

    if function(source_folder, os.fsencode(source), target_folder, os.fsencode(target), _NO_REPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def sync_folder(handle: int) -> None:
    """Make the entries of an open folder durable, if the file system can sync folders."""
    try:
        os.fsync(handle)
    except OSError as error:
        # Older CIFS and some FUSE file systems cannot; their servers sync folders themselves.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def start_writing(handle: int) -> None:
    """Let the system begin to write a file's data to the disk, so that a later fsync has less to wait for."""
    function = _function("sync_file_range")
    if function is not None:
        import ctypes  # noqa: PLC0415 - see above

        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
        # It makes nothing durable, so its failure means nothing.
        function(handle, 0, 0, _WRITE)


def _link(source: str, source_folder: int, target: str, target_folder: int) -> None:
    os.link(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder, follow_symlinks=False)


def _rename_under_lock(source: str, source_folder: int, target: str, target_folder: int) -> None:
    # Open the folder again, because a lock on the same open file would not exclude other threads.
    lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target_folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            os.stat(target, dir_fd=target_folder, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    finally:
        os.close(lock)


#: In the order of trying.
WAYS: tuple[Way, ...] = (_link, rename_no_replace, _rename_under_lock)


def _function(name: str) -> Any:
    """Return a function of the C library; None if it has none."""
    import ctypes  # noqa: PLC0415 - see above

    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None


def _renameat2() -> Any:
    import ctypes  # noqa: PLC0415 - see above

    function = _function("renameat2")
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function
