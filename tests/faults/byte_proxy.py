# SPDX-License-Identifier: GPL-2.0-or-later
"""A proxy that passes bytes on and knows nothing of them, so that it works under TLS. It drops connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_PIECE = 4096


class ByteProxy:
    """Passes connections on to 127.0.0.1:`port`.

    `drop_after(bytes)` orders that the next connection over which that many bytes have gone, in one direction, is
    dropped. With `refusing` no connection is passed on. `faults` counts what was dropped.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._orders: list[int] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.refusing = False
        self.faults = 0

    def drop_after(self, count: int) -> None:
        with self._lock:
            self._orders.append(count)

    def clear(self) -> None:
        with self._lock:
            self._orders.clear()
        self.refusing = False

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._lock:
            sockets = [self._listener, *self._open]
        for one in sockets:
            _shut(one)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                # The daemon is being restarted.
                client.close()
                continue
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
            _shut(one)
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


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
