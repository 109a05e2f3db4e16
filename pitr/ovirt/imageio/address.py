# SPDX-License-Identifier: GPL-2.0-or-later
"""Connect to ovirt-imageio at the address of a transfer."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pitr.errors import ImageioError
from pitr.ovirt.imageio.http import HttpConnection, PlainSocket, TlsSocket

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0

_PORTS: Final = {"http": 80, "https": 443}
#: No spaces and line ends, which would break the request.
_IN_A_REQUEST: Final = re.compile(r"[!-~]+")
# These notice a dead host within two minutes, although an answer can take half an hour.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


@dataclass(frozen=True, slots=True)
class ImageioAddress:
    """The address of a transfer's data. The URLs contain the ticket, a secret that pitr never shows.

    pitr uses `proxy_url` when the host of `transfer_url` is unreachable. `secure=False` trusts any certificate.
    Raises ImageioError when a URL is invalid.
    """

    transfer_url: str = field(repr=False)
    proxy_url: str | None = field(default=None, repr=False)
    cafile: str | Path | None = None
    secure: bool = True

    def __post_init__(self) -> None:
        for url in self.urls:
            try:
                parts = urlsplit(url)
                valid = (
                    parts.scheme in {"http", "https"}
                    and parts.hostname
                    and parts.port != 0
                    and parts.path
                    and _IN_A_REQUEST.fullmatch(f"{parts.netloc}{parts.path}")
                )
            except ValueError:
                valid = False
            if not valid:
                raise ImageioError("the engine sent an invalid transfer URL")

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.transfer_url,) if self.proxy_url is None else (self.transfer_url, self.proxy_url)

    @property
    def host(self) -> str:
        """The host and port, for messages."""
        return urlsplit(self.transfer_url).netloc.rpartition("@")[2]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The strings that pitr must not show: the ticket."""
        return tuple({urlsplit(url).path.rpartition("/")[2] for url in self.urls} - {""})


@dataclass(frozen=True, slots=True)
class LocalSocket:
    """The unix socket of a server on this machine, and the transfer's path there, which contains the ticket."""

    name: str
    path: str = field(repr=False)


class Connected(NamedTuple):
    """A connection, the transfer's path, and whether both ends have the same IP address."""

    connection: HttpConnection
    path: str
    same_machine: bool


def connected(address: ImageioAddress | LocalSocket, timeout_s: float) -> Connected:
    """Connect to the host, or to the proxy if the host is unreachable. Raises OSError.

    `timeout_s` limits the requests; connecting has a shorter limit.
    """
    if isinstance(address, LocalSocket):
        return Connected(_connected_locally(address.name, timeout_s), address.path, same_machine=True)
    *others, last = address.urls
    for url in others:
        try:
            return _connected_to(urlsplit(url), address, timeout_s)
        except OSError:
            # The engine offers the proxy for hosts that not all networks can reach.
            _log.info(
                "%s is unreachable from this machine: connecting to the engine's proxy", urlsplit(url).netloc
            )
            continue
    return _connected_to(urlsplit(last), address, timeout_s)


def _connected_locally(name: str, timeout_s: float) -> HttpConnection:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return HttpConnection(PlainSocket(connection), "localhost")


def _connected_to(url: SplitResult, address: ImageioAddress, timeout_s: float) -> Connected:
    host = url.hostname or ""
    context = _context(address) if url.scheme == "https" else None
    connection = socket.create_connection((host, url.port or _PORTS[url.scheme]), CONNECT_TIMEOUT_S)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        same_machine = connection.getsockname()[0] == connection.getpeername()[0]
        opened = PlainSocket(connection) if context is None else TlsSocket(connection, context, host)
        opened.set_timeout(timeout_s)
    except BaseException:
        connection.close()
        raise
    return Connected(HttpConnection(opened, url.netloc.rpartition("@")[2]), url.path, same_machine)


def _context(address: ImageioAddress) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=address.cafile)
    if not address.secure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
