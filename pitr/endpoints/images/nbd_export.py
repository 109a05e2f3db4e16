# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks behind an NBD server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pitr.endpoints.images.memory import check_range
from pitr.errors import NbdError, UsageError
from pitr.extents import ExtentMap
from pitr.nbd.client import Client, parse_url
from pitr.system.cancellation import pause
from pitr.system.closing import Closes
from pitr.system.retry import retrying

T = TypeVar("T")

#: oVirt starts qemu's servers with this number; more connections do not make a disk faster.
MAX_CONNECTIONS: Final = 8


class ClientPool(Closes):
    """Connections to one export. One thread uses a connection at a time, and the pool keeps idle ones open.

    qemu-nbd without --persistent exits with its last client. A flush on one connection covers the writes of
    another one only if the server says so. The caller that opens the pool closes it.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._address, self._export = parse_url(url)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        first = self._connected()
        self._idle = [first]
        self.size = first.size
        self.read_only = first.read_only
        # A server that does not announce "multi-conn" may accept only one connection.
        self.max_connections = MAX_CONNECTIONS if first.can_multi else 1

    def take(self) -> Client:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connected()

    def give_back(self, client: Client) -> None:
        if client.closed:
            client.close()
            return
        with self._lock:
            self._idle.append(client)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _connected(self) -> Client:
        return Client(self._address, self._export, self._timeout_s)


class NbdSource(Closes):
    """A source that reads an export of an NBD server. Closing it closes its connections.

    The reader reconnects once a connection is lost, and reads the range again. Raises NbdError when the server
    refuses, UsageError when the URL is not an NBD URL.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 60,
        sleep: Callable[[float], None] = pause,
        pool: ClientPool | None = None,
    ) -> None:
        self._sleep = sleep
        self._shared = pool is not None
        self._pool = pool if pool is not None else ClientPool(url, timeout_s)

    @property
    def size(self) -> int:
        return self._pool.size

    @property
    def max_readers(self) -> int:
        return self._pool.max_connections

    def extents(self) -> ExtentMap:
        with self.open_reader() as reader:
            return reader.extents()

    def open_reader(self) -> NbdReader:
        return NbdReader(self._pool, self._sleep)

    def close(self) -> None:
        """Close the connections, unless they are somebody else's `pool`."""
        if not self._shared:
            self._pool.close()


class NbdReader(Closes):
    def __init__(self, pool: ClientPool, sleep: Callable[[float], None]) -> None:
        self._pool = pool
        self._sleep = sleep
        self._client: Client | None = None

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        for offset, length in ranges:
            self._read(offset, buffer[at : at + length])
            at += length

    def extents(self) -> ExtentMap:
        return self._retrying(Client.extents)

    def close(self) -> None:
        if self._client is not None:
            self._pool.give_back(self._client)
            self._client = None

    def _read(self, offset: int, view: memoryview) -> None:
        self._retrying(lambda client: client.read_into(offset, view))

    def _retrying(self, operation: Callable[[Client], T]) -> T:
        def attempt() -> T:
            if self._client is None:
                self._client = self._pool.take()
            try:
                return operation(self._client)
            except NbdError as error:
                if error.connection_lost:
                    self._client.close()
                    self._client = None
                raise

        return retrying(attempt, transient=connection_lost, sleep=self._sleep)


class NbdSink:
    """A sink that writes an export of an NBD server in place.

    `reads_zero`: whether the caller knows that the export reads as zero. A lost connection is final: the server
    that answers the next one may have lost the writes that were acknowledged and not flushed. Raises NbdError, and
    UsageError when the export is too small or read-only. `flush` and `abort` close the connections.
    """

    def __init__(
        self, url: str, size: int | None = None, *, reads_zero: bool = False, timeout_s: float = 60
    ) -> None:
        self._pool = ClientPool(url, timeout_s)
        self._reads_zero = reads_zero
        problem = ""
        if self._pool.read_only:
            problem = "the NBD export is read-only"
        elif size is not None and self._pool.size < size:
            problem = f"the NBD export has {self._pool.size} bytes, but the disk has {size}"
        if problem:
            self._pool.close()
            raise UsageError(problem)
        self._url = url
        self.export_size = self._pool.size
        self.size = self._pool.size if size is None else size

    def present(self) -> NbdSource:
        """Return what the export holds now, read over this sink's connections. Closing it closes none of them."""
        return NbdSource(self._url, pool=self._pool)

    @property
    def max_writers(self) -> int:
        return self._pool.max_connections

    @property
    def reads_zero(self) -> bool:
        return self._reads_zero

    def open_writer(self) -> NbdWriter:
        return NbdWriter(self._pool, self.size)

    def flush(self) -> None:
        client = self._pool.take()
        self._pool.give_back(client)
        client.flush()
        self._pool.close()

    def abort(self) -> None:
        self._pool.close()


class NbdWriter(Closes):
    def __init__(self, pool: ClientPool, size: int) -> None:
        self._pool = pool
        self._size = size
        self._client: Client | None = None

    def write(self, offset: int, data: memoryview) -> None:
        check_range(offset, len(data), self._size)
        self._opened().write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        check_range(offset, length, self._size)
        self._opened().zero(offset, length)

    def close(self) -> None:
        if self._client is not None:
            self._pool.give_back(self._client)
            self._client = None

    def _opened(self) -> Client:
        if self._client is None:
            self._client = self._pool.take()
        return self._client


def connection_lost(error: Exception) -> bool:
    return isinstance(error, NbdError) and error.connection_lost
