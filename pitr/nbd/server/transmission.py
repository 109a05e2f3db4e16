# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's half of the transmission: answer requests in their order, one connection in one thread.

While the server answers a request, it loads the data of the next requests, and reads ahead of a sequential client. It
sends replies together when they need no waiting.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, NamedTuple

import numpy as np

from pitr.errors import PitrError
from pitr.extents import ExtentMap
from pitr.nbd.protocol import (
    BLOCK_STATUS,
    CACHE,
    CHUNK_BLOCK_STATUS,
    CHUNK_DATA,
    CHUNK_ERROR,
    CHUNK_ERROR_OFFSET,
    CHUNK_HOLE,
    CHUNK_NONE,
    COMMAND_DF,
    COMMAND_ONE,
    DISCONNECT,
    DONE,
    EINVAL,
    EIO,
    EOVERFLOW,
    EPERM,
    READ,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    STATE_HOLE,
    STATE_ZERO,
    STRUCTURED_MAGIC,
    TRIM,
    WRITE,
    WRITE_ZEROES,
)
from pitr.nbd.server.handshake import CONTEXT_ID, MAXIMUM_BLOCK, NegotiatedExport
from pitr.nbd.server.wire import ClientBroken, ServerSocket
from pitr.system import rate_limit
from pitr.system.read_ahead import ReadAhead

_SIMPLE: Final = struct.Struct(">LLQ")
_CHUNK: Final = struct.Struct(">LHHQL")
_DATA: Final = struct.Struct(">LHHQLQ")
_HOLE: Final = struct.Struct(">LHHQLQL")

#: Further requests wait in the client's socket.
_MAX_PENDING: Final = 64
#: With fewer pending requests than this, check whether the client has sent more.
_FEW_PENDING: Final = 16
_BUFFER: Final = REQUEST.size * _MAX_PENDING
#: Send the replies when they reach this many bytes.
_SEND_AT: Final = 256 << 10
#: The most extents in one answer. A client can ask again for the rest.
_MAX_EXTENTS: Final = 1 << 16
#: The protocol allows refusing a longer read in one chunk; the server would have to read it twice.
_MAX_UNFRAGMENTED: Final = 1 << 20
_ZEROES: Final = memoryview(bytes(64 << 10))


class _NbdRequest(NamedTuple):
    command: int
    flags: int
    handle: int
    offset: int
    length: int


class Transmission:
    """Answers the requests of one client that has opened an export."""

    def __init__(self, wire: ServerSocket, opened: NegotiatedExport) -> None:
        self._wire = wire
        self._content = opened.export.content
        self._size = self._content.size
        self._structured = opened.structured
        self._context = opened.context
        self._pending: deque[_NbdRequest] = deque()
        self._ahead = 0
        self._read_ahead = ReadAhead(self._content.read_ahead)
        self._buffer = memoryview(bytearray(_BUFFER))
        self._filled = 0
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0

    def run(self) -> None:
        """Serve until the client disconnects. Raises Disconnected and ClientBroken."""
        self._wire.timeout(None)
        while True:
            if len(self._pending) < _FEW_PENDING:
                self._receive(wait=not self._pending)
                if not self._pending:
                    continue
            request = self._pending.popleft()
            if request.command == DISCONNECT:
                self._flush()
                return
            if self._out and request.command == READ and not self._is_ready(request):
                # The client must not wait for these replies while another request waits for its frame.
                self._flush()
            self._answer(request)
            if not self._pending or self._out_bytes >= _SEND_AT:
                self._flush()

    # Receiving

    def _receive(self, *, wait: bool) -> None:
        """Receive requests while there is room. Wait for the client only when no request is pending."""
        # There is room: the buffer keeps at most the requests that did not fit beside the pending ones.
        self._filled += self._wire.receive_some(self._buffer[self._filled :], wait=wait)
        at = 0
        while self._filled - at >= REQUEST.size and len(self._pending) < _MAX_PENDING:
            magic, flags, command, handle, offset, length = REQUEST.unpack_from(self._buffer, at)
            if magic != REQUEST_MAGIC:
                raise ClientBroken("it sent something that is not a request")
            at += REQUEST.size
            if command == WRITE:
                at += self._skip(at, length)
            request = _NbdRequest(command, flags, handle, offset, length)
            self._pending.append(request)
            if command == READ:
                self._look_ahead(request)
        left = self._filled - at
        if at and left:
            self._buffer[:left] = bytes(self._buffer[at : self._filled])
        self._filled = left

    def _skip(self, at: int, length: int) -> int:
        """Skip the payload of a write. Return how many bytes of it are in the buffer."""
        if length > MAXIMUM_BLOCK:
            raise ClientBroken(f"it sent {length} bytes in one write")
        in_buffer = min(length, self._filled - at)
        self._wire.discard(length - in_buffer)
        return in_buffer

    def _look_ahead(self, request: _NbdRequest) -> None:
        if not self._is_possible(request):
            return
        ahead = self._read_ahead.after(request.offset, request.length)
        if len(self._pending) > 1 and not self._read_ahead.covers(request.offset, request.length):
            self._content.ask(request.offset, min(request.length, self._content.read_ahead))
        if ahead is not None:
            self._content.ask(*ahead)

    # Answering

    def _answer(self, request: _NbdRequest) -> None:
        command = request.command
        if command == READ:
            self._read(request)
        elif command == BLOCK_STATUS:
            self._block_status(request)
        elif command == CACHE:
            self._cache(request)
        elif command in (WRITE, TRIM, WRITE_ZEROES):
            self._fail(request, EPERM, "the export is read-only")
        else:
            self._fail(request, EINVAL, "unknown command")

    def _is_possible(self, request: _NbdRequest) -> bool:
        return 0 < request.length <= MAXIMUM_BLOCK and request.offset + request.length <= self._size

    def _is_ready(self, request: _NbdRequest) -> bool:
        return not self._is_possible(request) or self._content.is_ready(request.offset, request.length)

    def _read(self, request: _NbdRequest) -> None:
        if request.flags & ~COMMAND_DF or (request.flags and not self._structured):
            self._fail(request, EINVAL, "unknown flags")
        elif not self._is_possible(request):
            self._fail(request, EINVAL, "the range is too long or outside the export")
        elif not self._structured:
            self._read_whole(request)
        elif not request.flags:
            self._read_chunks(request)
        elif request.length > _MAX_UNFRAGMENTED:
            self._fail(request, EOVERFLOW, "the range is too long for one chunk")
        else:
            self._read_whole(request)

    def _read_chunks(self, request: _NbdRequest) -> None:
        """Reply in chunks. Send the pieces before an unreadable one, too."""
        _, _, handle, at, length = request
        end = at + length
        try:
            for count, data in self._content.read(at, length):
                flags = DONE if at + count == end else 0
                if data is None:
                    self._add(_HOLE.pack(STRUCTURED_MAGIC, flags, CHUNK_HOLE, handle, 12, at, count))
                else:
                    rate_limit.spend(count)
                    self._add(_DATA.pack(STRUCTURED_MAGIC, flags, CHUNK_DATA, handle, 8 + count, at))
                    self._add(data)
                at += count
                if self._out_bytes >= _SEND_AT:
                    self._flush()
        except PitrError as error:
            self._fail(request, EIO, error.message, at)

    def _read_whole(self, request: _NbdRequest) -> None:
        """Reply in one piece. Once begun, it cannot be taken back.

        Read it twice, the second time mostly from the cache, instead of holding all of it in memory.
        """
        offset, length = request.offset, request.length
        try:
            for _ in self._content.read(offset, length):
                pass
        except PitrError as error:
            self._fail(request, EIO, error.message, offset)
            return
        if self._structured:
            self._add(_DATA.pack(STRUCTURED_MAGIC, DONE, CHUNK_DATA, request.handle, 8 + length, offset))
        else:
            self._add(_SIMPLE.pack(SIMPLE_MAGIC, 0, request.handle))
        try:
            for count, data in self._content.read(offset, length):
                if data is not None:
                    rate_limit.spend(count)
                    self._add(data)
                else:
                    for at in range(0, count, len(_ZEROES)):
                        self._add(_ZEROES[: min(len(_ZEROES), count - at)])
                if self._out_bytes >= _SEND_AT:
                    self._flush()
        except PitrError as error:
            raise ClientBroken(f"a read failed after its reply had begun: {error.message}") from None

    def _block_status(self, request: _NbdRequest) -> None:
        if not self._context or request.flags & ~COMMAND_ONE:
            self._fail(request, EINVAL, "unknown flags" if self._context else "no context is set")
            return
        if request.length == 0 or request.offset + request.length > self._size:
            self._fail(request, EINVAL, "the range is outside the export")
            return
        end = request.offset + request.length
        extents = _first(self._content.extents(), request.offset, end, bool(request.flags & COMMAND_ONE))
        descriptors = np.empty((len(extents), 2), ">u4")
        descriptors[:, 0] = extents.length
        descriptors[:, 1] = np.where(extents.zero, STATE_HOLE | STATE_ZERO, 0)
        payload = struct.pack(">L", CONTEXT_ID) + descriptors.tobytes()
        self._add(_CHUNK.pack(STRUCTURED_MAGIC, DONE, CHUNK_BLOCK_STATUS, request.handle, len(payload)))
        self._add(payload)

    def _cache(self, request: _NbdRequest) -> None:
        if request.flags or request.length == 0 or request.offset + request.length > self._size:
            self._fail(request, EINVAL, "the range is outside the export")
            return
        self._content.ask(request.offset, min(request.length, self._content.read_ahead))
        self._succeed(request)

    def _succeed(self, request: _NbdRequest) -> None:
        if self._structured:
            self._add(_CHUNK.pack(STRUCTURED_MAGIC, DONE, CHUNK_NONE, request.handle, 0))
        else:
            self._add(_SIMPLE.pack(SIMPLE_MAGIC, 0, request.handle))

    def _fail(self, request: _NbdRequest, error: int, text: str, offset: int | None = None) -> None:
        if not self._structured:
            self._add(_SIMPLE.pack(SIMPLE_MAGIC, error, request.handle))
            return
        encoded = text.encode(errors="replace")[:1024].decode(errors="ignore").encode()
        payload = struct.pack(">LH", error, len(encoded)) + encoded
        kind = CHUNK_ERROR
        if offset is not None:
            payload += struct.pack(">Q", offset)
            kind = CHUNK_ERROR_OFFSET
        self._add(_CHUNK.pack(STRUCTURED_MAGIC, DONE, kind, request.handle, len(payload)) + payload)

    # Sending

    def _add(self, data: bytes | memoryview) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if out:
            self._wire.send(out)


def _first(extents: ExtentMap, start: int, end: int, only_one: bool) -> ExtentMap:
    """Return the first extents of `[start, end)`, at most one answer's number."""
    # `between` computes with all ends, which would be slow for each question on a map of millions.
    first = int(extents.start.searchsorted(start, side="right")) - 1
    part = slice(first, first + (1 if only_one else _MAX_EXTENTS))
    return ExtentMap(extents.start[part], extents.length[part], extents.zero[part]).between(start, end)
