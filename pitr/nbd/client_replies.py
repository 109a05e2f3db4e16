# SPDX-License-Identifier: GPL-2.0-or-later
"""The replies of an NBD server, simple and structured, checked field by field.

pitr does not trust the server. A reply must carry the handle of the open request. It must deliver each requested byte
exactly once before it says that it is done.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np

from pitr.errors import NbdError
from pitr.extents import Int64Array
from pitr.nbd.client_handshake import ClientSocket, ExportInfo, printable
from pitr.nbd.protocol import (
    CHUNK_BLOCK_STATUS,
    CHUNK_DATA,
    CHUNK_ERROR_OFFSET,
    CHUNK_HOLE,
    CHUNK_IS_ERROR,
    CHUNK_NONE,
    DONE,
    SIMPLE_MAGIC,
    STRUCTURED_MAGIC,
)

_SIMPLE: Final = struct.Struct(">LQ")
_STRUCTURED: Final = struct.Struct(">HHQL")

#: One million extents in one answer. qemu sends at most 128 thousand.
_MAX_STATUS: Final = 4 + (8 << 20)
_MAX_ERROR: Final = 4096 + 64

_ERRORS: Final = {
    1: "operation not permitted",
    5: "input/output error",
    12: "out of memory",
    22: "invalid request",
    28: "no space left",
    75: "value too large",
    95: "not supported",
    108: "shutting down",
}


@dataclass(frozen=True, slots=True)
class BlockStatus:
    """Consecutive ranges in bytes, each with its flags of the base:allocation context."""

    length: Int64Array
    flags: Int64Array


@dataclass(slots=True)
class NbdReply:
    """A complete answer: the reason of a refusal ("" when there was none), and the block status if one was sent."""

    refusal: str = ""
    status: BlockStatus | None = None


def receive(
    wire: ClientSocket, export: ExportInfo, handle: int, offset: int, into: memoryview | None
) -> NbdReply:
    """Receive the complete answer to request `handle`. `into` takes the bytes of a read at `offset`.

    Return a refusal: the connection stays usable. Raises NbdError when the connection breaks or the server does not
    follow the protocol; then the connection is unusable.
    """
    return _ReplyReader(wire, export, handle, offset, into).whole()


class _ReplyReader:
    def __init__(
        self, wire: ClientSocket, export: ExportInfo, handle: int, offset: int, into: memoryview | None
    ) -> None:
        self._wire = wire
        self._export = export
        self._handle = handle
        self._offset = offset
        self._into = into
        self._reply = NbdReply()
        #: (start, end) of the delivered ranges, relative to `into`.
        self._delivered: list[tuple[int, int]] = []
        self._missing = len(into) if into is not None else 0

    def whole(self) -> NbdReply:
        magic = self._magic()
        if magic == SIMPLE_MAGIC:
            return self._simple()
        done = False
        while not done:
            if magic != STRUCTURED_MAGIC or not self._export.structured:
                self._broken("a reply with a wrong magic number")
            flags, kind, handle, length = _STRUCTURED.unpack(self._wire.receive(_STRUCTURED.size))
            if handle != self._handle:
                self._broken("a reply to another request")
            self._chunk(kind, length)
            done = bool(flags & DONE)
            if not done:
                if kind == CHUNK_NONE:
                    self._broken("an empty chunk before the last one")
                magic = self._magic()
        if self._into is not None and not self._reply.refusal:
            self._check_delivered()
        return self._reply

    def _magic(self) -> int:
        return int.from_bytes(self._wire.receive(4), "big")

    def _simple(self) -> NbdReply:
        error, handle = _SIMPLE.unpack(self._wire.receive(_SIMPLE.size))
        if handle != self._handle:
            self._broken("a reply to another request")
        if error:
            return NbdReply(_ERRORS.get(error, f"error {error}"))
        if self._into is not None:
            if self._export.structured:
                self._broken("a simple reply to a structured read")
            self._wire.receive_into(self._into)
        return self._reply

    def _chunk(self, kind: int, length: int) -> None:
        if kind == CHUNK_NONE and length == 0:
            return
        if kind == CHUNK_DATA and self._into is not None and 8 < length <= 8 + self._missing:
            (offset,) = struct.unpack(">Q", self._wire.receive(8))
            self._wire.receive_into(self._deliver(offset, length - 8))
        elif kind == CHUNK_HOLE and self._into is not None and length == 12:
            offset, count = struct.unpack(">QL", self._wire.receive(12))
            np.frombuffer(self._deliver(offset, count), np.uint8)[:] = 0
        elif kind == CHUNK_BLOCK_STATUS and self._into is None and self._reply.status is None:
            self._reply.status = self._status(length)
        elif kind & CHUNK_IS_ERROR and 6 <= length <= _MAX_ERROR:
            self._error(kind, self._wire.receive(length))
        else:
            self._broken(f"a chunk of type {kind} and {length} bytes")

    def _deliver(self, offset: int, length: int) -> memoryview:
        """Return the buffer for a piece of the read, and mark the piece as delivered."""
        if self._into is None or length == 0 or length > self._missing:
            self._broken("more data than requested")
        start = offset - self._offset
        if start < 0 or start + length > len(self._into):
            self._broken("data outside the request")
        self._missing -= length
        self._delivered.append((start, start + length))
        return self._into[start : start + length]

    def _check_delivered(self) -> None:
        end = 0
        for start, next_end in sorted(self._delivered):
            if start != end:
                self._broken("some data twice")
            end = next_end
        if self._missing:
            self._broken("less data than requested")

    def _status(self, length: int) -> BlockStatus:
        if length > _MAX_STATUS or length < 4 + 8 or (length - 4) % 8:
            self._broken(f"a block status of {length} bytes")
        payload = self._wire.receive(length)
        if int.from_bytes(payload[:4], "big") != self._export.context_id:
            self._broken("a block status of another context")
        pairs = np.frombuffer(payload, ">u4", offset=4).astype(np.int64).reshape(-1, 2)
        if (pairs[:, 0] == 0).any():
            self._broken("an extent of length 0")
        return BlockStatus(pairs[:, 0], pairs[:, 1])

    def _error(self, kind: int, payload: bytes) -> None:
        error, text_length = struct.unpack(">LH", payload[:6])
        extra = 8 if kind == CHUNK_ERROR_OFFSET else 0
        if error == 0 or text_length > len(payload) - 6 - extra:
            self._broken("an invalid error")
        refusal = _ERRORS.get(error, f"error {error}")
        text = printable(payload[6 : 6 + text_length])
        self._reply.refusal = self._reply.refusal or (f"{refusal} ({text})" if text else refusal)

    def _broken(self, what: str) -> NoReturn:
        raise NbdError(f"the NBD server at {self._wire.name} does not follow the protocol: it sent {what}")
