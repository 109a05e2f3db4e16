# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening sockets, on unix paths and TCP ports."""

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
#: The longest path of a unix socket that the system accepts, in bytes.
_MAX_PATH: Final = 107
#: pitr holds the lock for less than a second, or for six seconds while it probes a busy listener.
_LOCK_TIMEOUT_S: Final = 15.0
_ANOTHER_PATH: Final = "another path with --socket"
_ANOTHER_PORT: Final = "another port with --port (0 for any free port)"


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """Listen on a new unix socket that only its owner may use; remove it at the end of the block.

    Replaces a socket that no process listens on any more; only one of several processes that try it at once succeeds.
    Raises BusyError if another process listens, and UsageError if the path is too long or another file has it.
    """
    if len(os.fsencode(path)) > _MAX_PATH:
        raise UsageError(
            f"the socket's path is longer than {_MAX_PATH} bytes: {path}",
            "Name a shorter path with --socket.",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        created = _bind(listener, path)
        try:
            yield listener
        finally:
            # Before closing: while this process listens, no other process replaces the socket.
            _remove(path, created)
    finally:
        listener.close()


@contextmanager
def tcp_listener(address: str, port: int) -> Iterator[socket.socket]:
    """Listen on a TCP port of `address`; port 0 is any free port. Raises BusyError for a taken port, UsageError."""
    try:
        addresses = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a name"
        raise UsageError(f"cannot listen on the address {address!r}: {why}") from None
    family, kind, protocol, _, where = addresses[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it, the port stays taken for a minute after a server on it has exited.
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
    """Return host and port of a TCP listener for a URL; `host` replaces the address by a name that clients use."""
    address, port = listener.getsockname()[:2]
    host = reachable_name(host or address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_name(address: str) -> str:
    """Return the name by which others reach a listener: the machine's name, if `address` stands for all addresses."""
    if address not in ("0.0.0.0", "::"):  # noqa: S104 - not bound here
        return address
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        # Nobody can resolve the name. Clients on this machine connect to 0.0.0.0 all the same.
        return address
    return name


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can connect to the listener."""
    return (
        listener.family == socket.AF_UNIX
        or ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
    )


def _bind(listener: socket.socket, path: Path) -> os.stat_result:
    """Listen at the path; return the status of the new socket file."""
    # Between bind() and listen(), a socket looks as if its server had died. The lock keeps others out meanwhile.
    with _folder_locked(path.parent) as locked:
        _make_room(path, may_remove=locked)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise _cannot_listen(str(path), error, _ANOTHER_PATH) from error
        finally:
            os.umask(before)
        created = path.lstat()
        try:
            listener.listen(_BACKLOG)
        except BaseException:
            _remove(path, created)
            raise
        return created


@contextmanager
def _folder_locked(folder: Path) -> Iterator[bool]:
    """Lock the folder against other pitr processes that create sockets there; create no file in it.

    Yields False if the folder cannot be locked: it is unreadable, or its file system has no such locks. Raises
    BusyError if another process keeps the lock.
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
            # In a shared folder, another user's program can hold the lock forever.
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
    """Remove a socket that a killed server left behind. Raises BusyError if a server listens, UsageError."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(str(path), error, _ANOTHER_PATH) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise UsageError(f"{path} exists and is not a socket", "Name another path with --socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            if not may_remove:
                raise UsageError(
                    f"cannot replace {path}, a socket that a server left behind: its folder cannot be locked",
                    f"Remove the socket if no program uses it, or name {_ANOTHER_PATH}.",
                ) from None
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # A timeout means that a process listens, but is busy with other clients.
            if not isinstance(error, TimeoutError | BlockingIOError):
                raise _cannot_listen(str(path), error, _ANOTHER_PATH) from error
    raise _taken(str(path), _ANOTHER_PATH)


def _remove(path: Path, created: os.stat_result) -> None:
    """Remove the socket, unless another file has its path now."""
    with suppress(FileNotFoundError):
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (created.st_dev, created.st_ino):
            path.unlink()


def _cannot_listen(where: str, error: OSError, another: str) -> PitrError:
    if error.errno == errno.EADDRINUSE:
        return _taken(where, another)
    return PitrError(f"cannot listen on {where}: {error.strerror}")


def _taken(where: str, another: str) -> BusyError:
    return BusyError(f"another program listens on {where} already", f"Stop it, or name {another}.")
