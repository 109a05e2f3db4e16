# SPDX-License-Identifier: GPL-2.0-or-later
"""What proxies for tests have in common: they accept connections, and end all that they have begun."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class PassingProxy(ABC):
    """Listens on `port` of 127.0.0.1, any that is free for 0, for connections to its port `target`."""

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]

    @abstractmethod
    def accepted(self, client: socket.socket) -> None:
        """Do with a new connection what this proxy does, in threads begun with `_start`."""

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._lock:
            for one in [self._listener, *self._open]:
                shut(one)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._target))

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted(client)


def shut(one: socket.socket) -> None:
    """End a connection for whoever waits on it, in any thread."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
