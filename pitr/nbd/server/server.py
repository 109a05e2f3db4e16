# SPDX-License-Identifier: GPL-2.0-or-later
"""The server: a listening socket, and a thread for each client."""

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
from pitr.system.closing import Closes

_log = logging.getLogger(__name__)

#: Each holds a thread, and at most two frames while it waits to be sent.
MAX_CONNECTIONS: Final = 128
#: Between attempts to accept a client, when the system refuses.
_PAUSE_S: Final = 0.1
_SEND_BUFFER: Final = 1 << 20
#: A host that has vanished is noticed after some minutes: idle seconds, seconds between probes, probes.
_KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_USER_TIMEOUT_MS: Final = 120_000


class NbdServer(Closes):
    """Serves `exports` on `listener`, a listening socket, which it takes over, until it is closed."""

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
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._acceptor.start()

    @property
    def connections(self) -> int:
        return len(self._clients)

    def close(self) -> None:
        """Cut off all clients and wait for their threads; harmless when done twice."""
        with self._lock:
            self._closing = True
            clients = list(self._clients.items())
        _shut_down(self._listener)
        self._acceptor.join()
        self._listener.close()
        for connection, _ in clients:
            _shut_down(connection)
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
                # A client that has gone again already, or no descriptors left for the moment.
                self._refuse(f"a client could not be accepted: {error.strerror}")
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
                self._refuse(f"more than {self._max_connections} clients at once: others are sent away")
            return
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                del self._clients[connection]
            connection.close()
            self._refuse(f"a client was sent away: {error}")
            return
        self._refusing = False

    def _refuse(self, why: str) -> None:
        """Say so once, until a client is let in again: whoever is refused may try again at once, and for ever."""
        if not self._refusing:
            _log.warning("%s", why)
        self._refusing = True

    def _serve(self, connection: socket.socket) -> None:
        wire = ServerSocket(connection)
        try:
            _set_up(connection)
            opened = negotiate(wire, self._exports)
            if opened is not None:
                Transmission(wire, opened).run()
        except Disconnected as error:
            _log.debug("a client has gone: %s", error)
        except ClientBroken as error:
            _log.debug("a client was sent away: %s", error)
        except Exception:  # noqa: BLE001 - one client's trouble is not the others'
            _log.exception("a client was cut off by a defect in pitr")
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
    # It may be closed, or not be connected any more.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
