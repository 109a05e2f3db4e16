# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's connection: what it sends, in exact pieces, and what it gets, without copies."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

#: The system takes no more buffers in one call.
_MAX_BUFFERS: Final = 1024
_DISCARDED_AT_ONCE: Final = 1 << 16


class Disconnected(Exception):
    """The client closed the connection, orderly or not; there is nobody to tell anything."""


class ClientBroken(Exception):
    """The client does not follow the protocol in a way that leaves no other answer than to close the connection."""


class ServerSocket:
    """Sends and receives on `connection`, in one thread. Raises ClientGone."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def timeout(self, seconds: float | None) -> None:
        """How long to wait for the client from now on."""
        self._socket.settimeout(seconds)

    def receive(self, length: int) -> bytes:
        """Receive exactly `length` bytes."""
        data = bytearray(length)
        view = memoryview(data)
        while view:
            view = view[self.receive_some(view) :]
        return bytes(data)

    def discard(self, length: int) -> None:
        """Receive `length` bytes that nobody wants."""
        waste = memoryview(bytearray(min(length, _DISCARDED_AT_ONCE)))
        while length:
            length -= self.receive_some(waste[: min(length, len(waste))])

    def receive_some(self, view: memoryview, *, wait: bool = True) -> int:
        """Receive up to `len(view)` bytes into `view`; return how many, 0 only when nothing is there to wait for."""
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
                        # The rest of a buffer that went only in part.
                        self._socket.sendall(memoryview(buffer)[sent:])
                        sent = 0
                        at += 1
                        break
                    sent -= len(buffer)
                    at += 1
        except OSError as error:
            raise Disconnected(str(error)) from None
