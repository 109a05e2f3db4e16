# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the gateway: its socket, TLS, and its end.

The server is uvicorn: small, well kept, pauses whoever sends faster than is taken, and closes the connection of an
answer that was not finished. Two things are done here instead of by it: the socket, so that the port is known and
clients that vanished are noticed; and the end, at which transfers are ended before the process is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from pitr.errors import Interrupted, PitrError, UsageError
from pitr.gateway.connection import Connection
from pitr.gateway.work import Work

#: Clients that are connected, with or without a request: each costs a little memory.
_MOST_CONNECTIONS = 256
#: How long clients get to take the rest of an answer that has ended.
_LAST_ANSWERS_S = 3
# A client whose host vanished is noticed after two minutes; accepted connections take these from the listening one.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the gateway listens: on `port` 0 it takes a free one. Certificate and key make it TLS."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    plain_http: bool = False

    def check(self) -> None:
        """Raise UsageError for what would send data and the token in the clear, and for TLS files of no use."""
        if (self.certificate is None) != (self.key is None):
            raise UsageError("--cert and --key go together")
        if self.certificate is not None and self.key is not None:
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                raise UsageError(
                    f"the certificate {self.certificate} and its key {self.key} cannot be used: {reason}",
                    "Both are PEM files; the key has no passphrase, and is that of the certificate.",
                ) from None
        elif not self.plain_http and not _is_loopback(self.host):
            raise UsageError(
                f"without TLS everybody on the way to {self.host} could read disks and the token",
                "Give --cert and --key, or listen on 127.0.0.1; --plain-http is for networks that are safe.",
            )

    @contextmanager
    def bound(self) -> Iterator[socket.socket]:
        """The socket. Raises PitrError when the address cannot be had."""
        with _bound(self.host, self.port) as bound:
            for option, value in _KEEPALIVE:
                bound.setsockopt(socket.IPPROTO_TCP, option, value)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            yield bound

    def url(self, bound: socket.socket) -> str:
        scheme = "https" if self.certificate is not None else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{bound.getsockname()[1]}"


def serve(
    app: ASGIApp, work: Work, listening: Listening, bound: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve until a signal comes; then end all streams, and raise Interrupted. Called in the main thread.

    `ready` is called when clients can connect.
    """
    # What it says is said by us, in our words and without addresses of images.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
    )
    server = _Server(config, work, ready)
    before = signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        asyncio.run(server.serve(sockets=[bound]))
    finally:
        signal.signal(signal.SIGHUP, before)
    if server.signum is not None:
        raise Interrupted(server.signum)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, work: Work, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._work = work
        self._ready = ready
        self.signum: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not the library's: it would have the signal come once more, when it is not expected any more.
        # A second one does not wait for clients any more.
        self.force_exit = self.should_exit
        self.signum = self.signum or sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._work.stop()
        await super().shutdown(sockets)


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return bound
    except (OSError, UnicodeError, OverflowError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PitrError(
            f"cannot listen on {host}, port {port}: {reason}",
            "Choose another --host or --port; port 0 takes a free one.",
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _no_password() -> str:
    # Without this, OpenSSL would ask for it on the terminal.
    raise ValueError("the key has a passphrase")
