# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes between a thread that blocks and the event loop, bounded in both directions.

Who is faster waits for the other, so that a client's speed is that of the copy, and memory stays what it is.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from pitr.errors import PitrError

#: What may wait in a channel: enough that neither side waits for the other's next turn.
CAPACITY = 4 << 20
#: What is handed to the server at once; more would only be copied to and fro in its buffers.
PIECE = 256 << 10


class ClientGone(PitrError):
    """The client has closed the connection, or is too slow, before all was done."""

    def __init__(self, message: str = "the client has gone before the end") -> None:
        super().__init__(message)


class Outgoing:
    """From a thread that writes to the event loop that reads.

    The thread calls `write`, then `end` or `fail`; the loop calls `read` until it gives nothing, and `close` when
    it wants no more.
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
        """Hand over `data` once there is room. Raises ClientGone when nobody reads any more."""
        if not data:
            return
        # A buffer that is used again must not change under way.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        with self._changed:
            self._changed.wait_for(lambda: self._closed is not None or self._size < self._capacity)
            if self._closed is not None:
                raise self._closed
            self._waiting.append(view)
            self._size += len(view)
        self._wake()

    def end(self) -> None:
        """All is written, and all that belongs to it is done."""
        with self._changed:
            self._ended = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
        self._wake()

    # The loop's side

    async def read(self) -> memoryview | None:
        """The next bytes, None at the end. Raises what the thread failed with, as soon as it has failed."""
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
        """Nobody reads any more: the thread's next `write` raises `reason`."""
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
            # Headers go with the data that follows them.
            parts, size = [first], len(first)
            while self._waiting and size + len(self._waiting[0]) <= PIECE:
                parts.append(self._waiting.popleft())
                size += len(parts[-1])
            taken = first if len(parts) == 1 else memoryview(b"".join(parts))
        self._size -= len(taken)
        self._changed.notify_all()
        return taken

    def _wake(self) -> None:
        # A loop that is closed has no readers.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._readable.set)


class Incoming:
    """From the event loop that puts to a thread that reads, as from a file.

    The loop calls `put`, then `end` or `fail`; the thread calls `read`, and `close` when it wants no more.
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
        """Up to `length` bytes, at least one unless it is the end; all that is left when negative."""
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
        """Nothing more is read: what comes is dropped."""
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
