# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks: one pitr at a time writes or removes backups of a VM, and none removes what another one reads.

A lock is held on an open file, so that the lock of a process that died is free at once. The file's text tells
others who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import orjson

from pitr import times
from pitr.errors import BusyError, FormatError, RepositoryError
from pitr.repository.store.folders import LinkInside, open_folder

_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; `what` names what it stands for, for people.

    Raises BusyError at once when another process holds it.
    """
    with _opened(path, what) as handle:
        _take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, what)
        _sign(handle)
        yield


@contextmanager
def share(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` together with others that share it, against those that `hold` it.

    Raises BusyError at once when another process holds it alone. Where no lock file can be made, as on a read-only
    file system, nothing is held: who can write there at the same time has to wait for readers by other means.
    """
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(_opened(path, what))
        except RepositoryError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NOT_WRITABLE:
                raise
        else:
            _take(handle, fcntl.LOCK_SH | fcntl.LOCK_NB, what)
            _sign(handle)
        yield


@contextmanager
def wait_for(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, after waiting for it: for what takes a moment only."""
    with _opened(path, what) as handle:
        _take(handle, fcntl.LOCK_EX, what)
        yield


@contextmanager
def _opened(path: Path, what: str) -> Iterator[int]:
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        folder = open_folder(path.parent)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(path.name, flags, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkInside(path) from None
        raise _cannot_lock(what, error) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, operation: int, what: str) -> None:
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        raise BusyError(
            f"another pitr works on {what}: {_holder(handle)}", "Wait until it has ended, or stop it."
        ) from None
    except OSError as error:
        raise _cannot_lock(what, error) from error


def _cannot_lock(what: str, error: OSError) -> RepositoryError:
    return RepositoryError(f"cannot lock {what}: {error.strerror}")


def _sign(handle: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": times.to_text(times.now())}
    # On a full disk the lock is held all the same: there people restore, and prune.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, orjson.dumps(holder), 0)


def _holder(handle: int) -> str:
    try:
        holder = orjson.loads(os.pread(handle, 4096, 0))
        since = times.for_people(times.from_text(holder["since"]))
        return f"process {int(holder['pid'])} on {holder['host']!s:.255}, since {since}"
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, FormatError):
        return "it has not said who it is yet"
