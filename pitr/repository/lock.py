# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks: one process at a time writes or removes the backups of a VM, and none removes points that another reads.

A lock belongs to an open file, so the lock of a process that died is free at once. The file's content names the
holder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import orjson

from pitr import times
from pitr.errors import BusyError, FormatError, RepositoryError
from pitr.repository.store.folders import LinkInside, open_lock
from pitr.system.cancellation import pause

_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
#: The errors of a network file system that gives no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
#: The pause between two tries to get a lock.
_POLL_S = 0.2
NO_LOCKS_ADVICE = (
    "The file system gives no locks. On NFS, mount with version 4, or start rpc.statd on this machine and the lock "
    "service on the server; do not mount with nolock."
)


#: How long the blocks of `waiting` that run now wait. Blocks of several threads can end in any order.
_patiences_s: list[float] = []


@contextmanager
def waiting(seconds: float) -> Iterator[None]:
    """Let this process wait so long, or longer if it does already, for locks that others hold while the block runs."""
    _patiences_s.append(seconds)
    try:
        yield
    finally:
        _patiences_s.remove(seconds)


def patience_s() -> float:
    """Return how long this process waits for locks that others hold."""
    return max(_patiences_s, default=0.0)


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` alone while the block runs. Messages call the locked thing `what`.

    Raises BusyError if another process holds or shares it: at once, or after `waiting`.
    """
    with _opened(path, what) as handle:
        _take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, what)
        _sign(handle)
        yield


@contextmanager
def share(path: Path, what: str) -> Iterator[None]:
    """Share the lock file `path` with other readers while the block runs.

    Raises BusyError if another process holds it alone: at once, or after `waiting`. If pitr cannot create the lock
    file, for example on a read-only file system, the block runs without a lock.
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
    """Wait for the lock file `path`, and hold it alone while the block runs. Only for blocks that take a moment."""
    with _opened(path, what) as handle:
        _take(handle, fcntl.LOCK_EX, what)
        yield


def oldest_hold(folder: Path, before: datetime) -> datetime | None:
    """Return the time since when the oldest lock of a VM in `folder` is held; None if none is held since `before`.

    Times are by the clock of the file system: a process writes to the file when it gets the lock. Raises
    RepositoryError.
    """
    oldest: float | None = None
    for path in sorted(folder.glob("*.lock")):
        try:
            if (taken := path.stat().st_mtime) >= before.timestamp() or not _is_held(path):
                continue
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _cannot_lock(f"the lock {path.name}", error) from error
        oldest = taken if oldest is None else min(oldest, taken)
    return None if oldest is None else datetime.fromtimestamp(oldest, UTC)


def _is_held(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def wait_to_share(path: Path, what: str) -> Iterator[None]:
    """Wait for the lock file `path`, and share it while the block runs. Only for blocks that take a moment."""
    with _opened(path, what) as handle:
        _take(handle, fcntl.LOCK_SH, what)
        yield


@contextmanager
def _opened(path: Path, what: str) -> Iterator[int]:
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        handle = open_lock(path.parent, path.name)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkInside(path) from None
        raise _cannot_lock(what, error) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, operation: int, what: str) -> None:
    end = time.monotonic() + patience_s()
    try:
        while True:
            try:
                fcntl.flock(handle, operation)
            except BlockingIOError:
                left = end - time.monotonic()
                if left <= 0:
                    raise
                pause(min(left, _POLL_S))
            else:
                return
    except BlockingIOError:
        raise BusyError(
            f"another pitr works on {what}: {_holder(handle)}",
            "Wait until it exits, or stop it. --wait-lock 10m waits for it.",
        ) from None
    except OSError as error:
        raise _cannot_lock(what, error) from error


def _cannot_lock(what: str, error: OSError) -> RepositoryError:
    advice = NO_LOCKS_ADVICE if error.errno in _NO_LOCKS else ""
    return RepositoryError(f"cannot lock {what}: {error.strerror}", advice)


def _sign(handle: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": times.to_text(times.now())}
    # On a full disk the lock works without its content, so that you can still restore and prune.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, orjson.dumps(holder), 0)


def _holder(handle: int) -> str:
    try:
        holder = orjson.loads(os.pread(handle, 4096, 0))
        since = times.for_people(times.from_text(holder["since"]))
        return f"process {int(holder['pid'])} on {holder['host']!s:.255}, since {since}"
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, FormatError):
        return "a process that has not written its name yet"
