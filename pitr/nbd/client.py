# SPDX-License-Identifier: GPL-2.0-or-later
"""A small NBD client: read, write, zero and discard ranges of an export, and list its zero ranges.

It follows the NBD project's doc/proto.md, with structured replies and the base:allocation context if the server
supports them. It sends one request at a time; open more clients for parallel requests.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Final
from urllib.parse import unquote, urlsplit

import numpy as np

from pitr.errors import NbdError, UsageError
from pitr.extents import ExtentMap
from pitr.nbd.client_handshake import Address, ClientSocket, negotiate
from pitr.nbd.client_replies import BlockStatus, receive
from pitr.nbd.protocol import (
    BLOCK_STATUS,
    COMMAND_NO_HOLE,
    DEFAULT_PORT,
    DISCONNECT,
    FLAG_FLUSH,
    FLAG_MULTI_CONNECTION,
    FLAG_READ_ONLY,
    FLAG_TRIM,
    FLAG_WRITE_ZEROES,
    FLUSH,
    READ,
    REQUEST,
    REQUEST_MAGIC,
    STATE_ZERO,
    TRIM,
    WRITE,
    WRITE_ZEROES,
)
from pitr.system.closing import Closes

#: On slow storage, a flush takes long, and so does zeroing when the storage has no command for it.
SLOW_TIMEOUT_S: Final = 1800.0

_COMMANDS: Final = {
    READ: "read",
    WRITE: "write",
    FLUSH: "flush",
    TRIM: "discard",
    WRITE_ZEROES: "zero",
    BLOCK_STATUS: "report the extents of",
}

#: Requests without a payload may be longer than a block. But a request of 1 GiB may exceed every timeout on
#: storage that must write the zeroes.
_MAX_ZERO: Final = 128 << 20
#: The protocol has 32-bit lengths. A multiple of 64 KiB keeps requests on cluster boundaries.
_MAX_STATUS: Final = (1 << 32) - (1 << 16)


def parse_url(url: str) -> tuple[Address, str]:
    """Return the (address, export) of an NBD URL, for Client.

    It accepts `nbd+unix:///EXPORT?socket=PATH`, `nbd://HOST[:PORT]/EXPORT`, and qemu's `nbd:unix:PATH` and
    `nbd:HOST:PORT`, both with or without `:exportname=EXPORT`. Raises UsageError for any other URL.
    """
    if url.startswith(("nbd://", "nbd+unix://")):
        return _parse_uri(url)
    if not url.startswith("nbd:"):
        raise UsageError(f"{url!r} is not an NBD URL that pitr knows")
    where, _, export = url.removeprefix("nbd:").partition(":exportname=")
    if where.startswith("unix:") and where != "unix:":
        return where.removeprefix("unix:"), export
    host, _, port = where.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"the NBD URL {url!r} does not name a server")
    return (host.removeprefix("[").removesuffix("]"), int(port)), export


def _parse_uri(url: str) -> tuple[Address, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise UsageError(f"{url!r} is not an NBD URL: {error}") from None
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd":
        if not parts.hostname:
            raise UsageError(f"the NBD URL {url!r} does not name a host")
        return (parts.hostname, port), export
    # parse_qs would turn a plus sign into a space, but a path may contain plus signs.
    values = [
        value
        for name, _, value in (pair.partition("=") for pair in parts.query.split("&"))
        if name == "socket"
    ]
    if len(values) != 1 or not values[0]:
        raise UsageError(f"the NBD URL {url!r} does not name a socket")
    return unquote(values[0]), export


class Client(Closes):
    """A connection to one export, for one thread at a time. The caller that opens it closes it.

    Offsets and lengths are bytes. Raises NbdError. After one with `connection_lost` this client is closed, and a new
    client may succeed; any other one means that the server refused or does not follow the protocol. The client does
    not align requests to `minimum_block`, so a server whose `minimum_block` is above 1 may refuse some (qemu does not).
    """

    def __init__(self, address: Address, export: str = "", timeout_s: float = 60) -> None:
        self._wire = ClientSocket(address, timeout_s)
        try:
            self._export = negotiate(self._wire, export)
        except BaseException:
            self._wire.close()
            raise
        self._handles = itertools.count(1)
        self._dead = False

    @property
    def size(self) -> int:
        return self._export.size

    @property
    def minimum_block(self) -> int:
        return self._export.minimum_block

    @property
    def maximum_block(self) -> int:
        """Return the longest piece of one request, in bytes. The client splits longer reads and writes."""
        return self._export.maximum_block

    @property
    def closed(self) -> bool:
        """Return whether this client is unusable: closed, or interrupted in the middle of a request."""
        return self._dead

    @property
    def read_only(self) -> bool:
        return bool(self._export.flags & FLAG_READ_ONLY)

    @property
    def can_zero(self) -> bool:
        return bool(self._export.flags & FLAG_WRITE_ZEROES)

    @property
    def can_discard(self) -> bool:
        return bool(self._export.flags & FLAG_TRIM)

    @property
    def can_flush(self) -> bool:
        return bool(self._export.flags & FLAG_FLUSH)

    @property
    def can_multi(self) -> bool:
        """Return whether all connections see, and flush, the writes of each other."""
        return bool(self._export.flags & FLAG_MULTI_CONNECTION)

    @property
    def can_extents(self) -> bool:
        """Return whether the server reports which ranges are zero."""
        return self._export.context_id is not None

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` (bytes, writable, contiguous) with the data at `offset`."""
        self._check(offset, len(view))
        block = self.maximum_block
        for start in range(0, len(view), block):
            part = view[start : start + block]
            self._request(READ, offset + start, len(part), into=part)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        block = self.maximum_block
        for start in range(0, len(view), block):
            part = view[start : start + block]
            self._request(WRITE, offset + start, len(part), payload=part)

    def zero(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Make a range read as zero. With `unmap`, the server may release its space.

        Write zeroes when the server has no command for it.
        """
        self._check(offset, length)
        if not self.can_zero:
            zeroes = memoryview(bytes(min(length, 1 << 20)))
            for start in range(offset, offset + length, 1 << 20):
                self.write(start, zeroes[: min(1 << 20, offset + length - start)])
            return
        with self._wire.patience(SLOW_TIMEOUT_S):
            for start in range(offset, offset + length, _MAX_ZERO):
                count = min(_MAX_ZERO, offset + length - start)
                self._request(WRITE_ZEROES, start, count, flags=0 if unmap else COMMAND_NO_HOLE)

    def discard(self, offset: int, length: int) -> None:
        """Release a range that is no longer needed. The server decides what it reads as afterwards."""
        self._check(offset, length)
        if not self.can_discard:
            raise NbdError(f"the NBD server at {self._wire.name} does not support discard")
        with self._wire.patience(SLOW_TIMEOUT_S):
            for start in range(offset, offset + length, _MAX_ZERO):
                self._request(TRIM, start, min(_MAX_ZERO, offset + length - start))

    def flush(self) -> None:
        """Make all acknowledged writes durable. Do nothing when the server has no flush."""
        if self.can_flush:
            with self._wire.patience(SLOW_TIMEOUT_S):
                self._request(FLUSH, 0, 0)

    def extents(self) -> ExtentMap:
        """Return the data and zero ranges of the whole export. All is data when the server cannot report them."""
        if not self.can_extents:
            return ExtentMap.of([(0, self.size, False)] if self.size else [])
        pages: list[BlockStatus] = []
        offset = 0
        while offset < self.size:
            with self._wire.patience(SLOW_TIMEOUT_S):
                status = self._request(BLOCK_STATUS, offset, min(_MAX_STATUS, self.size - offset))
            if status is None:
                raise NbdError(f"the NBD server at {self._wire.name} sent no block status")
            pages.append(status)
            offset += int(status.length.sum())
        if not pages:
            return ExtentMap.of([])
        length = np.concatenate([page.length for page in pages])
        zero = (np.concatenate([page.flags for page in pages]) & STATE_ZERO) != 0
        start = np.cumsum(length) - length
        # The last extents may reach beyond the requested range, and so beyond the end of the export.
        inside = start < self.size
        start, length, zero = start[inside], length[inside], zero[inside]
        length[-1] = self.size - start[-1]
        return ExtentMap(start, length, zero).merged().checked(self.size, whole=True)

    def close(self) -> None:
        """Disconnect from the server. You may call it twice, and after the server has gone."""
        if not self._dead:
            self._dead = True
            # A server that is gone needs no goodbye; it has acknowledged everything that matters.
            with contextlib.suppress(NbdError):
                self._wire.send(REQUEST.pack(REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
        self._wire.close()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise NbdError(
                f"{length} bytes at {offset} are outside the NBD export at {self._wire.name},"
                f" which has {self.size} bytes"
            )

    def _request(
        self,
        command: int,
        offset: int,
        length: int,
        *,
        flags: int = 0,
        payload: memoryview | None = None,
        into: memoryview | None = None,
    ) -> BlockStatus | None:
        if self._dead:
            raise NbdError(
                f"the connection to the NBD server at {self._wire.name} is closed", connection_lost=True
            )
        # An interruption, by a signal for example, leaves an answer behind that belongs to no request.
        self._dead = True
        handle = next(self._handles)
        header = REQUEST.pack(REQUEST_MAGIC, flags, command, handle, offset, length)
        self._wire.send(header, payload if payload is not None else b"")
        reply = receive(self._wire, self._export, handle, offset, into)
        self._dead = False
        if reply.refusal:
            action = _COMMANDS[command]
            raise NbdError(
                f"the NBD server at {self._wire.name} failed to {action} {length} bytes at {offset}:"
                f" {reply.refusal}"
            )
        return reply.status
