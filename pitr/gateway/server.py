# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the gateway: its limits, and TLS.

The server pauses whoever sends faster than is taken, and closes the connection of an answer that was not finished. At
its end, transfers are ended before the process is.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from pitr.errors import UsageError
from pitr.gateway.connection import ClientConnection
from pitr.gateway.work import BlockingWork
from pitr.system import web_server
from pitr.system.sockets import is_loopback

#: Clients that are connected, with or without a request: each costs a little memory.
_MOST_CONNECTIONS = 256
#: How long clients get to take the rest of an answer that has ended.
_LAST_ANSWERS_S = 3
# A client whose host vanished is noticed after two minutes; accepted connections take these from the listening one.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate, with its chain, and private key: PEM files."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raise UsageError where they are of no use."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UsageError(
                f"the certificate {self.certificate} and its key {self.key} cannot be used: {reason}",
                "Both are PEM files; the key has no passphrase, and is that of the certificate.",
            ) from None


def check_private(listener: socket.socket) -> None:
    """Raise UsageError where what is sent without TLS, the token as well, could be read on its way."""
    if not is_loopback(listener):
        raise UsageError(
            f"without TLS everybody on the way to {listener.getsockname()[0]} could read disks and the token",
            "Give --cert and --key, or listen on 127.0.0.1; --plain-http is for networks that are safe.",
        )


def serve(
    app: ASGIApp, work: BlockingWork, listener: socket.socket, tls: Tls | None, *, ready: Callable[[], None]
) -> None:
    """Serve until a signal comes; then end all streams, and raise Interrupted. Called in the main thread.

    `ready` is called when clients can connect.
    """
    for option, value in _KEEPALIVE:
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # What it says is said by us, in our words and without addresses of images.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=ClientConnection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
        ssl_certfile=tls.certificate if tls is not None else None,
        ssl_keyfile=tls.key if tls is not None else None,
    )
    web_server.serve(config, listener, ready=ready, stopping=work.stop)


def _no_password() -> str:
    # Without this, OpenSSL would ask for it on the terminal.
    raise ValueError("the key has a passphrase")
