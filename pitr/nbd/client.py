# SPDX-License-Identifier: GPL-2.0-or-later
"""A small NBD client: reads, writes, zeroes and discards ranges of an export, and tells which are zero.

Follows the NBD project's doc/proto.md, with structured replies and the base:allocation context where the
server has them. One request at a time: whoever wants more opens more clients.
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

#: A flush, or zeroing on a storage that cannot, may take as long as the storage is slow.
SLOW_TIMEOUT_S: Final = 1800.0

_COMMANDS: Final = {
    READ: "read",
    WRITE: "write",
    FLUSH: "flush",
    TRIM: "discard",
    WRITE_ZEROES: "zero",
    BLOCK_STATUS: "tell the extents of",
}

#: Requests without a payload may be larger than a block, but one of 1 GiB may outlast every timeout on a
#: storage that has to write the zeroes.
_MAX_ZERO: Final = 128 << 20
#: The protocol has 32-bit lengths; a multiple of 64 KiB keeps requests on cluster boundaries.
_MAX_STATUS: Final = (1 << 32) - (1 << 16)


def parse_url(url: str) -> tuple[Address, str]:
    """Take an NBD URL apart: (address, export), as Client takes them.

    Known are `nbd+unix:///EXPORT?socket=PATH`, `nbd://HOST[:PORT]/EXPORT`, and qemu's `nbd:unix:PATH` and
    `nbd:HOST:PORT`, both with `:exportname=EXPORT` or without. Raises UsageError on all others.
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
        raise UsageError(f"{url!r} names no NBD server")
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
            raise UsageError(f"{url!r} names no host")
        return (parts.hostname, port), export
    # Not parse_qs: to that a plus sign is a blank, in a path it is a plus sign.
    values = [
        value
        for name, _, value in (pair.partition("=") for pair in parts.query.split("&"))
        if name == "socket"
    ]
    if len(values) != 1 or not values[0]:
        raise UsageError(f"{url!r} names no socket")
    return unquote(values[0]), export


class Client(Closes):
    """A connection to one export, for one thread at a time. Whoever opens it closes it.

    Offsets and lengths are bytes. Raises NbdError; one with `connection_lost` means that this client is dead
    and another may do better, any other one that the server refused or does not follow the protocol. Requests
    are not aligned to `minimum_block`: servers that have one above 1 may refuse others (qemu does not).
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
        """The longest piece that is sent in one request; longer reads and writes are split."""
        return self._export.maximum_block

    @property
    def closed(self) -> bool:
        """True when this client cannot be used: closed, or in the middle of an exchange that failed."""
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
        """Whether what one connection wrote is seen, and flushed, by all others."""
        return bool(self._export.flags & FLAG_MULTI_CONNECTION)

    @property
    def can_extents(self) -> bool:
        """Whether the server tells which ranges are zero."""
        return self._export.context_id is not None

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` (bytes, writable, contiguous) with what is at `offset`."""
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
        """Make a range read as zero; with `unmap` the server may release its space.

        Writes zeroes where the server has no command for it.
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
        """Release a range that is not needed any more; what it reads as afterwards is the server's choice."""
        self._check(offset, length)
        if not self.can_discard:
            raise NbdError(f"the NBD server at {self._wire.name} cannot discard")
        with self._wire.patience(SLOW_TIMEOUT_S):
            for start in range(offset, offset + length, _MAX_ZERO):
                self._request(TRIM, start, min(_MAX_ZERO, offset + length - start))

    def flush(self) -> None:
        """Make everything durable that was acknowledged; nothing to do where the server has no flush."""
        if self.can_flush:
            with self._wire.patience(SLOW_TIMEOUT_S):
                self._request(FLUSH, 0, 0)

    def extents(self) -> ExtentMap:
        """Return the data and zero ranges of the whole export; all is data where the server cannot tell."""
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
        # The last extents may reach beyond what was asked for, and so beyond the end.
        inside = start < self.size
        start, length, zero = start[inside], length[inside], zero[inside]
        length[-1] = self.size - start[-1]
        return ExtentMap(start, length, zero).merged().checked(self.size, whole=True)

    def close(self) -> None:
        """Take leave of the server; harmless when it is gone or when done twice."""
        if not self._dead:
            self._dead = True
            # A server that is gone takes no leave; everything that matters was acknowledged before.
            with contextlib.suppress(NbdError):
                self._wire.send(REQUEST.pack(REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
        self._wire.close()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise NbdError(
                f"{length} bytes at {offset} lie outside of the NBD export at {self._wire.name},"
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
        # Whatever interrupts the exchange, a signal too, leaves an answer behind that belongs to nobody.
        self._dead = True
        handle = next(self._handles)
        header = REQUEST.pack(REQUEST_MAGIC, flags, command, handle, offset, length)
        self._wire.send(header, payload if payload is not None else b"")
        reply = receive(self._wire, self._export, handle, offset, into)
        self._dead = False
        if reply.refusal:
            what = _COMMANDS[command]
            raise NbdError(
                f"the NBD server at {self._wire.name} failed to {what} {length} bytes at {offset}:"
                f" {reply.refusal}"
            )
        return reply.status
