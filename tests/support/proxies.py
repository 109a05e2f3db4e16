# SPDX-License-Identifier: GPL-2.0-or-later
"""Proxies that fail when a test orders it: one for bytes, also below TLS, and one for plain HTTP requests."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Literal, Self

Fault = Literal[
    "reset",  # the connection is reset before the request is passed on
    "cut request",  # half of the body is passed on, then both connections are closed
    "cut answer",  # half of the answer's body is passed on, then both connections are closed
    "lost answer",  # the request is carried out, but its answer is lost
    "stall",  # the request is never answered
    "500",
    "403",
]

_PIECE = 4096


class Proxy(ABC):
    """A proxy on `port` of 127.0.0.1 (0: any free port) for connections to the port `target` of 127.0.0.1."""

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
        """Serve a new connection in threads that `_start` starts."""

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._lock:
            for connection in [self._listener, *self._open]:
                shut(connection)
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


class ByteProxy(Proxy):
    """A proxy that passes bytes on without reading them, so that it works below TLS, and drops connections.

    `refusing` closes new connections. `faults` counts the dropped connections.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        super().__init__(target, port)
        self._orders: list[int] = []
        self.refusing = False
        self.faults = 0

    def drop_after(self, count: int) -> None:
        """Drop the next connection that has carried `count` bytes in one direction."""
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
        for connection in (source, target):
            shut(connection)
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


class HttpProxy(Proxy):
    """A proxy for plain HTTP that passes requests on, except for the faults that `fail` orders.

    `requests` lists the methods and paths of all requests. `most_open` is the highest number of open connections.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._orders: list[tuple[Fault, str, str]] = []
        self._clients: list[socket.socket] = []
        self.requests: list[str] = []
        self.most_open = 0

    def fail(self, fault: Fault, method: str, *, path: str = "", times: int = 1) -> None:
        """Fail the next `times` requests of this method that have `path` in their path."""
        self._orders += [(fault, method, path)] * times

    @property
    def ordered(self) -> int:
        """Return how many ordered faults have not happened yet."""
        return len(self._orders)

    def accepted(self, client: socket.socket) -> None:
        with self._lock:
            self._clients = [known for known in self._clients if not _is_closed(known)] + [client]
            self.most_open = max(self.most_open, len(self._clients))
        self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        server = self._connect()
        with self._lock:
            self._open |= {client, server}
        try:
            with client.makefile("rwb") as near, server.makefile("rwb") as far, contextlib.suppress(OSError):
                while not self._ending.is_set() and self._pass(client, near, far):
                    pass
        except OSError:
            pass  # Files flush when they are closed, and the other end may be gone.
        finally:
            with self._lock:
                self._open -= {client, server}
                if client in self._clients:
                    self._clients.remove(client)
            client.close()
            server.close()

    def _pass(  # noqa: PLR0911
        self, client: socket.socket, near: Any, far: Any
    ) -> bool:
        """Pass one request and its answer on. Return False when the connection is over."""
        head, length = _head(near)
        if not head:
            return False
        method, path = head.decode("latin-1").split(" ")[:2]
        fault = self._fault(method, path)
        if fault == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if fault == "stall":
            self._ending.wait()
            return False
        far.write(head)
        if fault == "cut request":
            far.write(near.read(length // 2))
            far.flush()
            return False
        body = near.read(length)
        if fault in {"403", "500"}:
            text = f"ordered by the test for {path}\n".encode()
            near.write(
                f"HTTP/1.1 {fault} No\r\nContent-Type: text/plain\r\n".encode()
                + f"Content-Length: {len(text)}\r\n\r\n".encode()
                + text
            )
            near.flush()
            return False
        far.write(body)
        far.flush()
        head, length = _head(far)
        if not head or fault == "lost answer":
            return False
        near.write(head)
        if fault == "cut answer":
            near.write(far.read(length // 2))
            near.flush()
            return False
        near.write(far.read(length))
        near.flush()
        return True

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append(f"{method} {path}")
            for order in self._orders:
                if order[1] == method and order[2] in path:
                    self._orders.remove(order)
                    return order[0]
        return None


def _is_closed(connection: socket.socket) -> bool:
    """Return whether the other end has closed the connection, even before its thread has noticed."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _head(stream: Any) -> tuple[bytes, int]:
    """Read up to the blank line. Return the head, and the length of the body in bytes."""
    head = b""
    length = 0
    for line in iter(stream.readline, b""):
        head += line
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
        if line == b"\r\n":
            return head, length
    return b"", 0


def shut(connection: socket.socket) -> None:
    """End a connection, and wake all threads that wait for it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
