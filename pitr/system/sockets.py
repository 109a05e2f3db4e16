# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets to listen on."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pitr.errors import BusyError, PitrError, UsageError

_BACKLOG: Final = 64
#: The system has room for no longer path of a socket.
_MAX_PATH: Final = 107
#: The lock is held for less than a second, or six where somebody listens who is busy.
_LOCK_TIMEOUT_S: Final = 15.0
_ANOTHER_PATH: Final = "another path with --socket"
_ANOTHER_PORT: Final = "another one with --port: 0 is any that is free"


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """Listen on a new unix socket that only its owner may use; it is removed at the end.

    A socket that nobody listens on any more is replaced: by one of any number of processes that try it at once.
    Raises BusyError when somebody listens, and UsageError when something else is there, or the path is too long.
    """
    if len(os.fsencode(path)) > _MAX_PATH:
        raise UsageError(
            f"the path of a socket has at most {_MAX_PATH} bytes: {path}", "Name a shorter one with --socket."
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made = _bind(listener, path)
        try:
            yield listener
        finally:
            # Before it is closed: while this one listens, nobody puts another one in its place.
            _remove(path, made)
    finally:
        listener.close()


@contextmanager
def tcp_listener(address: str, port: int) -> Iterator[socket.socket]:
    """Listen on a TCP port of `address`, any free one for 0. Raises BusyError when it is taken, UsageError."""
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a name"
        raise UsageError(f"{address!r} is no address to listen on: {why}") from None
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # A port that was served on a minute ago is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _cannot_listen(f"port {port} of {address}", error, _ANOTHER_PORT) from error
        yield listener
    finally:
        listener.close()


def authority(listener: socket.socket, host: str | None = None) -> str:
    """Host and port of a TCP listener as they stand in a URL; `host` is the name that clients know it by."""
    address, port = listener.getsockname()[:2]
    host = host or address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return (
        listener.family == socket.AF_UNIX
        or ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
    )


def _bind(listener: socket.socket, path: Path) -> os.stat_result:
    """Listen at the path; return what has been made there."""
    # Between its making and listen(), a socket looks as if its server had died: others have to wait so long.
    with _alone_in(path.parent) as alone:
        _make_room(path, may_remove=alone)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise _cannot_listen(str(path), error, _ANOTHER_PATH) from error
        finally:
            os.umask(before)
        made = path.lstat()
        try:
            listener.listen(_BACKLOG)
        except BaseException:
            _remove(path, made)
            raise
        return made


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Lock the folder for a moment against others that make sockets there. Nothing is left behind in it.

    Says whether that worked: there are file systems without locks on folders, and folders that cannot be read. Raises
    BusyError when another process does not let go.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _lock(handle, folder)
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # In a folder of many users anybody can hold it for good.
            if time.monotonic() > deadline:
                raise BusyError(
                    f"another program holds a lock on the folder {folder}",
                    f"Stop it, or name {_ANOTHER_PATH}.",
                ) from None
            time.sleep(0.01)
        except OSError:
            return False
        else:
            return True


def _make_room(path: Path, *, may_remove: bool) -> None:
    """Remove a socket that a server has left behind which was killed."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(str(path), error, _ANOTHER_PATH) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise UsageError(f"{path} exists already, and is no socket", "Name another path with --socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            if not may_remove:
                raise UsageError(
                    f"{path} is a socket that a server has left behind, in a folder that cannot be locked",
                    f"Remove it if nothing uses it, or name {_ANOTHER_PATH}.",
                ) from None
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # Also when it is busy with others: somebody listens.
            if not isinstance(error, TimeoutError | BlockingIOError):
                raise _cannot_listen(str(path), error, _ANOTHER_PATH) from error
    raise _taken(str(path), _ANOTHER_PATH)


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove the socket, unless another one has taken its place."""
    with suppress(FileNotFoundError):
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()


def _cannot_listen(where: str, error: OSError, another: str) -> PitrError:
    if error.errno == errno.EADDRINUSE:
        return _taken(where, another)
    return PitrError(f"cannot listen on {where}: {error.strerror}")


def _taken(where: str, another: str) -> BusyError:
    return BusyError(f"something listens on {where} already", f"Stop it, or name {another}.")
