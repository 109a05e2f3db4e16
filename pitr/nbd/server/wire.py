# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's connection: receive exact lengths, and send buffers without copies."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

#: sendmsg(2) accepts no more buffers in one call (UIO_MAXIOV).
_MAX_BUFFERS: Final = 1024
_DISCARDED_AT_ONCE: Final = 1 << 16


class Disconnected(Exception):
    """The client closed the connection, or it broke."""


class ClientBroken(Exception):
    """The client violates the protocol, and closing the connection is the only answer."""


class ServerSocket:
    """Sends and receives on `connection`, in one thread. Raises Disconnected."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def timeout(self, seconds: float | None) -> None:
        """Set how long to wait for the client from now on, in seconds."""
        self._socket.settimeout(seconds)

    def receive(self, length: int) -> bytes:
        """Receive exactly `length` bytes."""
        data = bytearray(length)
        view = memoryview(data)
        while view:
            view = view[self.receive_some(view) :]
        return bytes(data)

    def discard(self, length: int) -> None:
        """Receive and drop `length` bytes."""
        waste = memoryview(bytearray(min(length, _DISCARDED_AT_ONCE)))
        while length:
            length -= self.receive_some(waste[: min(length, len(waste))])

    def receive_some(self, view: memoryview, *, wait: bool = True) -> int:
        """Receive up to `len(view)` bytes into `view`. Return how many, 0 only without `wait`."""
        try:
            count = self._socket.recv_into(view, 0, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Disconnected(str(error)) from None
        if count == 0:
            raise Disconnected("it closed the connection")
        return count

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send `buffers` one after the other."""
        at = 0
        try:
            while at < len(buffers):
                part = buffers[at : at + _MAX_BUFFERS]
                sent = self._socket.sendmsg(part)
                for buffer in part:
                    if sent < len(buffer):
                        # Send the rest of a partly sent buffer.
                        self._socket.sendall(memoryview(buffer)[sent:])
                        sent = 0
                        at += 1
                        break
                    sent -= len(buffer)
                    at += 1
        except OSError as error:
            raise Disconnected(str(error)) from None
