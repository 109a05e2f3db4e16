# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTP proxy in front of a real ovirt-imageio that fails when it is told to."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, Literal

from tests.support.passing_proxy import PassingProxy

Fault = Literal[
    "reset",  # the connection is reset before the request is passed on
    "cut request",  # half of the body is passed on, then both connections are closed
    "cut answer",  # half of the answer's body is passed on, then both connections are closed
    "lost answer",  # the request is carried out, but its answer is lost
    "stall",  # the request is never answered
    "500",
    "403",
]


class FaultyProxy(PassingProxy):
    """Passes requests on to 127.0.0.1:`port`, but for the faults that `fail` has ordered.

    `requests` are the methods and paths that came, `most_open` is how many connections were open at once.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._orders: list[tuple[Fault, str, str]] = []
        self._clients: list[socket.socket] = []
        self.requests: list[str] = []
        self.most_open = 0

    def fail(self, fault: Fault, method: str, *, path: str = "", times: int = 1) -> None:
        """Let the next `times` requests of this method, with `path` in their path, fail."""
        self._orders += [(fault, method, path)] * times

    @property
    def ordered(self) -> int:
        """How many of the ordered faults have not happened."""
        return len(self._orders)

    def accepted(self, client: socket.socket) -> None:
        with self._lock:
            self._clients = [one for one in self._clients if not _is_closed(one)] + [client]
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
            pass  # Files flush when they are closed, and find that nobody listens.
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
        """Pass one request and its answer on; False when the connection is over."""
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
    """Whether the other end has closed it: that is known here before its thread has noticed."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _head(stream: Any) -> tuple[bytes, int]:
    """Read up to the blank line: (the head, the length of the body)."""
    head = b""
    length = 0
    for line in iter(stream.readline, b""):
        head += line
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
        if line == b"\r\n":
            return head, length
    return b"", 0
