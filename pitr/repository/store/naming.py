# SPDX-License-Identifier: GPL-2.0-or-later
"""Give a whole file its name, on any file system, and never in the place of what has that name already.

A plain rename replaces. What does not is tried in this order, and what the file system cannot do is told by its
error, not by its kind:

1. A hard link. Not on FAT, exFAT, some CIFS shares and many FUSE file systems.
2. renameat2(RENAME_NOREPLACE), Linux 3.15, glibc 2.28. Not on FUSE file systems that do not know its flags.
3. A lock on the folder, a look whether the name is free, and a rename. The lock goes with its process, so that nothing
   is left behind wherever that dies; it holds among the processes of one host.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

#: What system calls say that the file system, the kernel or a sandbox does not have. EPERM is refused permission as
#: well: then the next way is refused too.
_CANNOT: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
_NO_REPLACE: Final = 1  # RENAME_NOREPLACE of linux/fs.h

Way = Callable[[str, int, str, int], None]


def cannot(error: OSError) -> bool:
    """Whether a call failed because there is no such thing on this file system, perhaps."""
    return error.errno in _CANNOT


def set_mode(path: int | Path | str, mode: int, *, dir_fd: int | None = None) -> None:
    """Set the mode of an open file, or of a path, on a file system that keeps modes."""
    try:
        os.chmod(path, mode, dir_fd=dir_fd)
    except OSError as error:
        # FAT has none: there the mount says who may read. Of a file of another owner it would be refused before.
        if not cannot(error):
            raise


class Naming:
    """Names files of one file system, and remembers what that can do. For any number of threads."""

    def __init__(self) -> None:
        self._first = 0

    def give(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        """Give the file `source` of one open folder the name `target` in another, both open for reading.

        The old name may be left, for the caller to remove. Raises FileExistsError when the name is taken, by whatever
        it is, and OSError.
        """
        for number in range(self._first, len(WAYS)):
            try:
                WAYS[number](source, source_folder, target, target_folder)
            except OSError as error:
                if number + 1 == len(WAYS) or not cannot(error):
                    raise
            else:
                # Only once another way has worked: it may have been the permission that was missing.
                self._first = number
                return

    def sync(self, source_folder: int, target_folder: int) -> None:
        """Make durable what `give` did in these folders."""
        if self._first:
            # The old name is gone, and first of all durably. On FAT a power failure that left both names would leave
            # two files with the same clusters: removing one would give the other's away.
            sync_folder(source_folder)
        sync_folder(target_folder)


def rename_no_replace(source: str, source_folder: int, target: str, target_folder: int) -> None:
    """Rename, unless the name is taken: FileExistsError. Raises OSError, ENOSYS where there is no such call."""
    function = _renameat2()
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    import ctypes  # noqa: PLC0415 - most file systems have links, and most commands are over sooner

    if function(source_folder, os.fsencode(source), target_folder, os.fsencode(target), _NO_REPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def sync_folder(handle: int) -> None:
    """Make the entries of an open folder durable, on a file system that has a call for this."""
    try:
        os.fsync(handle)
    except OSError as error:
        # Of a folder: not there on older CIFS and some FUSE file systems, whose servers do it themselves.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _link(source: str, source_folder: int, target: str, target_folder: int) -> None:
    os.link(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder, follow_symlinks=False)


def _rename_under_lock(source: str, source_folder: int, target: str, target_folder: int) -> None:
    # A lock of its own, which no other thread of this process shares.
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


#: In the order in which they are tried.
WAYS: tuple[Way, ...] = (_link, rename_no_replace, _rename_under_lock)


def _renameat2() -> Any:
    """The C library's function, None where it has none."""
    import ctypes  # noqa: PLC0415 - see above

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function
