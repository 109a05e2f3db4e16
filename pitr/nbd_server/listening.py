# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets to listen on, and the NBD URIs that lead to them."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pitr.errors import BusyError, PitrError, UsageError
from pitr.nbd_protocol import DEFAULT_PORT

_BACKLOG: Final = 64
#: The system has room for no longer path of a socket.
_MAX_PATH: Final = 107


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """Listen on a new unix socket that only its owner may use; it is removed at the end.

    A socket that nobody listens on any more is replaced. Raises BusyError when somebody does, and UsageError when
    something else is there, or the path is too long.
    """
    if len(os.fsencode(path)) > _MAX_PATH:
        raise UsageError(
            f"the path of a socket has at most {_MAX_PATH} bytes: {path}", "Name a shorter one with --socket."
        )
    _make_room(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise _cannot_listen(str(path), error) from error
        finally:
            os.umask(before)
        made = path.lstat()
        try:
            listener.listen(_BACKLOG)
            yield listener
        finally:
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
            raise _cannot_listen(f"port {port} of {address}", error) from error
        yield listener
    finally:
        listener.close()


def uri(listener: socket.socket, export: str) -> str:
    """The NBD URI of an export that is served on `listener`."""
    name = quote(export, safe="")
    where = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"nbd+unix:///{name}?socket={quote(os.fsencode(Path(where).absolute()))}"
    host, port = where[:2]
    # A client on the machine itself; whoever comes from elsewhere knows the machine by another name.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    place = f"[{host}]" if ":" in host else host
    return f"nbd://{place}{'' if port == DEFAULT_PORT else f':{port}'}/{name}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return (
        listener.family == socket.AF_UNIX
        or ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
    )


def _make_room(path: Path) -> None:
    """Remove a socket that a server has left behind which was killed."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(str(path), error) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise UsageError(f"{path} exists already, and is no socket", "Name another path with --socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # Also when it is busy with others: somebody listens.
            if not isinstance(error, TimeoutError | BlockingIOError):
                raise _cannot_listen(str(path), error) from error
    raise BusyError(f"something listens on {path} already", "Stop it, or name another path with --socket.")


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove the socket, unless another one has taken its place."""
    with suppress(FileNotFoundError):
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()


def _cannot_listen(where: str, error: OSError) -> PitrError:
    if error.errno == errno.EADDRINUSE:
        return BusyError(f"something listens on {where} already", "Stop it, or choose another place.")
    return PitrError(f"cannot listen on {where}: {error.strerror}")
