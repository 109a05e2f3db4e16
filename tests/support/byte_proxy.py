# SPDX-License-Identifier: GPL-2.0-or-later
"""A proxy that passes bytes on and knows nothing of them, so that it works under TLS. It drops connections."""

from __future__ import annotations

import contextlib
import socket

from tests.support.passing_proxy import PassingProxy, shut

_PIECE = 4096


class ByteProxy(PassingProxy):
    """Passes connections on to 127.0.0.1:`port`, and listens on `listen_on` or any port.

    `drop_after(bytes)` orders that the next connection over which that many bytes have gone, in one direction, is
    dropped. With `refusing` no connection is passed on. `faults` counts what was dropped.
    """

    def __init__(self, port: int, listen_on: int = 0) -> None:
        super().__init__(port, listen_on)
        self._orders: list[int] = []
        self.refusing = False
        self.faults = 0

    def drop_after(self, count: int) -> None:
        with self._lock:
            self._orders.append(count)

    def clear(self) -> None:
        with self._lock:
            self._orders.clear()
        self.refusing = False

    def accepted(self, client: socket.socket) -> None:
        if self.refusing:
            client.close()
            return
        try:
            server = self._connect()
        except OSError:
            # The daemon is being restarted.
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        self._start(self._pass, client, server)
        self._start(self._pass, server, client)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        count = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                count += len(data)
                if self._drops(count):
                    break
                target.sendall(data)
        for one in (source, target):
            shut(one)
        with self._lock:
            both_done = target not in self._open
            self._open.discard(source)
        if both_done:
            source.close()
            target.close()

    def _drops(self, count: int) -> bool:
        with self._lock:
            due = [order for order in self._orders if count >= order]
            if due:
                self._orders.remove(due[0])
                self.faults += 1
        return bool(due)
