# SPDX-License-Identifier: GPL-2.0-or-later
"""The server of the gateway: its limits, and TLS.

It pauses a client that sends faster than the disk can write, and closes the connection of an incomplete answer. Before
the process exits, it ends all transfers.
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

#: The most connected clients, with or without a request. Each takes a little memory.
_MOST_CONNECTIONS = 256
#: How many seconds clients get to read the rest of a finished answer.
_LAST_ANSWERS_S = 3
# Notice a vanished host after two minutes. Accepted connections inherit these from the listening socket.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificate with its chain, and the private key: PEM files."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raise UsageError when the files are unusable."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UsageError(
                f"cannot use the certificate {self.certificate} with the key {self.key}: {reason}",
                "Both must be PEM files. The key must belong to the certificate and have no passphrase.",
            ) from None


def check_private(listener: socket.socket) -> None:
    """Raise UsageError when others could read data and the token on the network, because TLS is off."""
    if not is_loopback(listener):
        raise UsageError(
            f"without TLS, others on the network to {listener.getsockname()[0]} could read disks and the token",
            "Give --cert and --key, or listen on 127.0.0.1. Use --plain-http only on a safe network.",
        )


def serve(
    app: ASGIApp, work: BlockingWork, listener: socket.socket, tls: Tls | None, *, ready: Callable[[], None]
) -> None:
    """Serve until a signal arrives, then end all streams and raise Interrupted. Call it in the main thread.

    It calls `ready` when clients can connect.
    """
    for option, value in _KEEPALIVE:
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # The gateway reports failures itself, without the addresses of images.
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
    # Without this, OpenSSL would ask for the passphrase on the terminal.
    raise ValueError("the key has a passphrase")
