# SPDX-License-Identifier: GPL-2.0-or-later
"""Where ovirt-imageio is, and connections to it."""

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
from pitr.ovirt.imageio.http import HttpConnection, SocketWire, TlsWire

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0

_PORTS: Final = {"http": 80, "https": 443}
#: Neither blanks nor line ends, which would make something else of a request.
_IN_A_REQUEST: Final = re.compile(r"[!-~]+")
# A host that vanished is noticed in two minutes, although an answer may take half an hour.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


@dataclass(frozen=True, slots=True)
class ImageioAddress:
    """Where a transfer's data is, as the engine says. The URLs hold the ticket, a secret: never shown.

    `proxy_url` is used when the host of `transfer_url` cannot be reached; `secure=False` trusts any
    certificate. Raises ImageioError when a URL is not one.
    """

    transfer_url: str = field(repr=False)
    proxy_url: str | None = field(default=None, repr=False)
    cafile: str | Path | None = None
    secure: bool = True

    def __post_init__(self) -> None:
        for url in self.urls:
            try:
                parts = urlsplit(url)
                known = (
                    parts.scheme in {"http", "https"}
                    and parts.hostname
                    and parts.port != 0
                    and parts.path
                    and _IN_A_REQUEST.fullmatch(f"{parts.netloc}{parts.path}")
                )
            except ValueError:
                known = False
            if not known:
                raise ImageioError("the engine gave a transfer URL that is none")

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.transfer_url,) if self.proxy_url is None else (self.transfer_url, self.proxy_url)

    @property
    def host(self) -> str:
        """The host and port, for messages."""
        return urlsplit(self.transfer_url).netloc.rpartition("@")[2]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown: the ticket."""
        return tuple({urlsplit(url).path.rpartition("/")[2] for url in self.urls} - {""})


class Connected(NamedTuple):
    """A connection, the path of the transfer there, and whether the other end has this machine's address."""

    connection: HttpConnection
    path: str
    same_machine: bool


def connected(address: ImageioAddress, timeout_s: float) -> Connected:
    """Connect to the host, or, where that cannot be reached, to the proxy. Raises OSError.

    `timeout_s` is for what follows; connecting itself has a shorter limit.
    """
    *others, last = address.urls
    for url in others:
        try:
            return _connected_to(urlsplit(url), address, timeout_s)
        except OSError:
            # The engine names the proxy for hosts that cannot be reached from everywhere.
            _log.info("%s cannot be reached from here: trying the engine's proxy", urlsplit(url).netloc)
            continue
    return _connected_to(urlsplit(last), address, timeout_s)


def connected_locally(name: str, timeout_s: float) -> HttpConnection:
    """Connect to the unix socket `name`. Raises OSError."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.settimeout(timeout_s)
        one.connect(name)
    except BaseException:
        one.close()
        raise
    return HttpConnection(SocketWire(one), "localhost")


def _connected_to(url: SplitResult, address: ImageioAddress, timeout_s: float) -> Connected:
    host = url.hostname or ""
    context = _context(address) if url.scheme == "https" else None
    one = socket.create_connection((host, url.port or _PORTS[url.scheme]), CONNECT_TIMEOUT_S)
    try:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            one.setsockopt(socket.IPPROTO_TCP, option, value)
        same_machine = one.getsockname()[0] == one.getpeername()[0]
        wire = SocketWire(one) if context is None else TlsWire(one, context, host)
        wire.set_timeout(timeout_s)
    except BaseException:
        one.close()
        raise
    return Connected(HttpConnection(wire, url.netloc.rpartition("@")[2]), url.path, same_machine)


def _context(address: ImageioAddress) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=address.cafile)
    if not address.secure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
