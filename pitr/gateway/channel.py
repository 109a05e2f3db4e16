# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes between a blocking thread and the event loop, bounded in both directions.

The faster side waits for the slower one. So the copy runs at the client's speed, and memory stays constant.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from pitr.errors import PitrError

#: How much may wait in a channel: enough that neither side waits for the other's next turn.
CAPACITY = 4 << 20
#: The most that the server gets at once. It would only copy more to and fro in its buffers.
PIECE = 256 << 10


class ClientGone(PitrError):
    """The client has closed the connection, or was too slow."""

    def __init__(self, message: str = "the client disconnected before the end") -> None:
        super().__init__(message)


class Outgoing:
    """A channel from a writing thread to the reading event loop.

    The thread calls `write`, then `end` or `fail`. The loop calls `read` until it returns None, or `close` to stop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int = CAPACITY) -> None:
        self._loop = loop
        self._capacity = capacity
        self._changed = threading.Condition()
        self._readable = asyncio.Event()
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._ended = False
        self._error: BaseException | None = None
        self._closed: PitrError | None = None

    # The thread's side

    def write(self, data: bytes | memoryview) -> None:
        """Hand over `data` once there is room. Raises ClientGone after `close`."""
        if not data:
            return
        # Copy a buffer that the caller may use again.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        with self._changed:
            self._changed.wait_for(lambda: self._closed is not None or self._size < self._capacity)
            if self._closed is not None:
                raise self._closed
            self._waiting.append(view)
            self._size += len(view)
        self._wake()

    def end(self) -> None:
        """Mark the end: everything is written, and its resources are closed."""
        with self._changed:
            self._ended = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
        self._wake()

    # The loop's side

    async def read(self) -> memoryview | None:
        """Return the next bytes, None at the end. Raises the error of the thread as soon as it has failed."""
        while True:
            with self._changed:
                self._readable.clear()
                if self._error is not None:
                    raise self._error
                if self._waiting:
                    return self._take()
                if self._ended:
                    return None
            await self._readable.wait()

    def close(self, reason: PitrError | None = None) -> None:
        """Stop reading: the next `write` of the thread raises `reason`."""
        with self._changed:
            if self._closed is None:
                self._closed = reason or ClientGone()
            self._waiting.clear()
            self._size = 0
            self._changed.notify_all()

    def _take(self) -> memoryview:
        first = self._waiting.popleft()
        if len(first) > PIECE:
            self._waiting.appendleft(first[PIECE:])
            taken = first[:PIECE]
        else:
            # Send headers together with the data that follows them.
            parts, size = [first], len(first)
            while self._waiting and size + len(self._waiting[0]) <= PIECE:
                parts.append(self._waiting.popleft())
                size += len(parts[-1])
            taken = first if len(parts) == 1 else memoryview(b"".join(parts))
        self._size -= len(taken)
        self._changed.notify_all()
        return taken

    def _wake(self) -> None:
        # A closed loop has no readers.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._readable.set)


class Incoming:
    """A channel from the event loop to a thread that reads it like a file.

    The loop calls `put`, then `end` or `fail`. The thread calls `read`, and `close` to stop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int = CAPACITY) -> None:
        self._loop = loop
        self._capacity = capacity
        self._changed = threading.Condition()
        self._writable = asyncio.Event()
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._ended = False
        self._closed = False
        self._error: PitrError | None = None
        self.received = 0

    # The thread's side

    def read(self, length: int = -1) -> bytes:
        """Return up to `length` bytes, at least one before the end. A negative `length` returns the rest."""
        parts: list[memoryview] = []
        size = 0
        with self._changed:
            while True:
                self._changed.wait_for(
                    lambda: self._waiting or self._ended or self._closed or self._error is not None
                )
                if self._error is not None:
                    raise self._error
                while self._waiting and (length < 0 or size < length):
                    part = self._waiting.popleft()
                    if 0 <= length < size + len(part):
                        self._waiting.appendleft(part[length - size :])
                        part = part[: length - size]
                    parts.append(part)
                    size += len(part)
                    self._size -= len(part)
                if length >= 0 or self._ended or self._closed:
                    break
        self._wake()
        return b"".join(parts)

    def close(self) -> None:
        """Stop reading: drop further data."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._size = 0
        self._wake()

    # The loop's side

    async def put(self, data: bytes) -> None:
        """Hand over `data`, and wait until there is room for more."""
        with self._changed:
            self.received += len(data)
            if data and not self._closed:
                self._waiting.append(memoryview(data))
                self._size += len(data)
                self._changed.notify_all()
        while True:
            with self._changed:
                self._writable.clear()
                if self._closed or self._error is not None or self._size < self._capacity:
                    return
            await self._writable.wait()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: PitrError) -> None:
        with self._changed:
            if not self._ended:
                self._error = error
            self._changed.notify_all()
        self._writable.set()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._writable.set)
