# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD server: a listening socket, and a thread for each client."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import Final

from pitr.nbd.server.exports import Exports
from pitr.nbd.server.handshake import negotiate
from pitr.nbd.server.transmission import Transmission
from pitr.nbd.server.wire import ClientBroken, Disconnected, ServerSocket
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by
from pitr.system.closing import Closes

_log = logging.getLogger(__name__)

#: Each connection holds a thread, and at most two frames that wait to be sent.
MAX_CONNECTIONS: Final = 128
#: The pause before the next attempt to accept a client after the system has refused.
_PAUSE_S: Final = 0.1
_SEND_BUFFER: Final = 1 << 20
#: Notice a vanished host within minutes: idle seconds, seconds between probes, number of probes.
_KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_USER_TIMEOUT_MS: Final = 120_000


class NbdServer(Closes):
    """Serves `exports` on `listener`, a listening socket, until you close the server. Closing it closes the socket."""

    def __init__(
        self, exports: Exports, listener: socket.socket, *, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._exports = exports
        self._listener = listener
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self._refusing = False
        self._cancellation = Cancellation()
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._acceptor.start()

    @property
    def connections(self) -> int:
        return len(self._clients)

    def close(self) -> None:
        """Disconnect all clients and wait for their threads. You may call it twice."""
        with self._lock:
            self._closing = True
            clients = list(self._clients.items())
        _shut_down(self._listener)
        self._acceptor.join()
        self._listener.close()
        for connection, _ in clients:
            _shut_down(connection)
        # A client's thread may wait for the limit of the rate.
        self._cancellation.cancel()
        for _, thread in clients:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                with self._lock:
                    if self._closing:
                        return
                # The client has gone already, or the process has no free descriptors.
                self._refuse(f"cannot accept a client: {error.strerror}")
                time.sleep(_PAUSE_S)
                continue
            self._start(connection)

    def _start(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-client", daemon=True)
        with self._lock:
            full = len(self._clients) >= self._max_connections
            admitted = not full and not self._closing
            if admitted:
                self._clients[connection] = thread
        if not admitted:
            connection.close()
            if full:
                self._refuse(f"refusing clients: {self._max_connections} are connected")
            return
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                del self._clients[connection]
            connection.close()
            self._refuse(f"refusing a client: {error}")
            return
        self._refusing = False

    def _refuse(self, why: str) -> None:
        """Log this once until a client is accepted again: a refused client may retry at once, for ever."""
        if not self._refusing:
            _log.warning("%s", why)
        self._refusing = True

    def _serve(self, connection: socket.socket) -> None:
        wire = ServerSocket(connection)
        try:
            _set_up(connection)
            opened = negotiate(wire, self._exports)
            if opened is not None:
                with cancelled_by(self._cancellation):
                    Transmission(wire, opened).run()
        except (Cancelled, Disconnected) as error:
            _log.debug("a client disconnected: %s", error)
        except ClientBroken as error:
            _log.debug("disconnected a client: %s", error)
        except Exception:  # noqa: BLE001 - a defect for one client must not affect the others
            _log.exception("a defect in pitr disconnected a client")
        finally:
            with self._lock:
                self._clients.pop(connection, None)
            connection.close()


def _set_up(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def _shut_down(connection: socket.socket) -> None:
    # The socket may be closed or disconnected already.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
