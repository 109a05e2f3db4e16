# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of an NBD connection: the fixed newstyle handshake, and exact reads and writes on its socket.

It follows the NBD project's doc/proto.md. pitr does not trust the server: it checks every field before it uses it, and
bounds every length before it allocates memory.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pitr.errors import NbdError
from pitr.extents import MAX_SIZE
from pitr.nbd.protocol import (
    CONTEXT,
    DEFAULT_MAXIMUM_BLOCK,
    GREETING,
    HANDSHAKE_FIXED,
    HANDSHAKE_NO_ZEROES,
    INFO_BLOCK_SIZE,
    INFO_EXPORT,
    MAX_TEXT,
    OPTION,
    OPTION_GO,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OPTION_SET_META_CONTEXT,
    OPTION_STRUCTURED_REPLY,
    REPLY_ACK,
    REPLY_INFO,
    REPLY_IS_ERROR,
    REPLY_META_CONTEXT,
    SERVER_MAGIC,
)

#: A path of a unix socket, or (host, port).
Address = str | tuple[str, int]

_REPLY_ERRORS: Final = {
    1: "not supported",
    2: "forbidden by its policy",
    3: "invalid request",
    4: "not supported on its platform",
    5: "it requires TLS",
    6: "it has no export of this name",
    7: "shutting down",
    8: "it requires other block sizes",
    9: "the request is too large",
}

#: A reply to an option holds at most a name or a text; the protocol limits both to 4096 bytes.
_MAX_OPTION_REPLY: Final = MAX_TEXT + 64
#: A server that sends more replies than this to one option may never stop.
_MAX_OPTION_REPLIES: Final = 256


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """The server's description of an export: `size` and block sizes in bytes, its transmission `flags`."""

    size: int
    flags: int
    minimum_block: int
    maximum_block: int
    structured: bool
    #: The id of the base:allocation context, or None when the server does not support it.
    context_id: int | None


def printable(text: bytes) -> str:
    """Decode a text of the server, without control characters for the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text.decode("utf-8", "replace"))


class ClientSocket:
    """A socket that sends and receives exact lengths. After an NbdError it is unusable.

    `name` names the server in messages. The caller that opens it closes it.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.name = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._socket = _connected(address, timeout_s, self.name)

    def receive_into(self, view: memoryview) -> None:
        with self._translated():
            while view:
                count = self._socket.recv_into(view)
                if count == 0:
                    raise NbdError(
                        f"the NBD server at {self.name} closed the connection", connection_lost=True
                    )
                view = view[count:]

    def receive(self, length: int) -> bytes:
        data = bytearray(length)
        self.receive_into(memoryview(data))
        return bytes(data)

    def send(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        with self._translated():
            if not payload:
                self._socket.sendall(header)
                return
            # Sent on its own, the header would take a packet and wake up the server.
            sent = self._socket.sendmsg([header, payload])
            if sent < len(header):
                self._socket.sendall(header[sent:])
                sent = len(header)
            self._socket.sendall(memoryview(payload)[sent - len(header) :])

    @contextlib.contextmanager
    def patience(self, timeout_s: float) -> Iterator[None]:
        """Wait up to `timeout_s` seconds for each answer inside the block."""
        before = self._socket.gettimeout()
        self._socket.settimeout(timeout_s)
        try:
            yield
        finally:
            self._socket.settimeout(before)

    def close(self) -> None:
        self._socket.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            message = f"the NBD server at {self.name} did not answer within {self._socket.gettimeout():g} s"
            raise NbdError(message, connection_lost=True) from None
        except OSError as error:
            message = f"the connection to the NBD server at {self.name} broke: {error.strerror or error}"
            raise NbdError(message, connection_lost=True) from error


def _connected(address: Address, timeout_s: float, name: str) -> socket.socket:
    try:
        if isinstance(address, tuple):
            connection = socket.create_connection(address, timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection
    except OSError as error:
        message = f"cannot connect to the NBD server at {name}: {error.strerror or error}"
        raise NbdError(
            message, "Check that the server is running and listens there.", connection_lost=True
        ) from error


def negotiate(wire: ClientSocket, export: str) -> ExportInfo:
    """Open the export named `export` on a new connection, with structured replies if the server supports them.

    Raises NbdError when the server refuses or does not follow the protocol.
    """
    name = export.encode()
    if len(name) > MAX_TEXT:
        raise NbdError(f"the NBD export name is too long: it has {len(name)} bytes")
    magic, option_magic, flags = GREETING.unpack(wire.receive(GREETING.size))
    if magic != SERVER_MAGIC or option_magic != OPTION_MAGIC or not flags & HANDSHAKE_FIXED:
        raise NbdError(f"the program that listens at {wire.name} is not a (fixed newstyle) NBD server")
    wire.send(struct.pack(">L", flags & (HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES)))

    named = struct.pack(">L", len(name)) + name
    structured = _ask(wire, OPTION_STRUCTURED_REPLY, b"").accepted
    context_id = None
    if structured:
        query = struct.pack(">LL", 1, len(CONTEXT)) + CONTEXT
        answer = _ask(wire, OPTION_SET_META_CONTEXT, named + query)
        if answer.accepted:
            context_id = _context_id(wire, answer.replies)

    answer = _ask(wire, OPTION_GO, named + struct.pack(">HH", 1, INFO_BLOCK_SIZE))
    if not answer.accepted:
        raise NbdError(f"the NBD server at {wire.name} refuses the export {export!r}: {answer.refusal}")
    return _export(wire, answer.replies, structured, context_id)


@dataclass(frozen=True, slots=True)
class _OptionReply:
    accepted: bool
    #: (reply type, its data)
    replies: list[tuple[int, bytes]]
    refusal: str


def _ask(wire: ClientSocket, option: int, data: bytes) -> _OptionReply:
    wire.send(OPTION.pack(OPTION_MAGIC, option, len(data)) + data)
    replies: list[tuple[int, bytes]] = []
    while len(replies) < _MAX_OPTION_REPLIES:
        magic, for_option, kind, length = OPTION_REPLY.unpack(wire.receive(OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC or for_option != option or length > _MAX_OPTION_REPLY:
            break
        payload = wire.receive(length)
        if kind == REPLY_ACK:
            return _OptionReply(True, replies, "")
        if kind & REPLY_IS_ERROR:
            reason = _REPLY_ERRORS.get(kind ^ REPLY_IS_ERROR, f"error {kind ^ REPLY_IS_ERROR}")
            return _OptionReply(False, [], f"{reason}: {printable(payload)}" if payload else reason)
        replies.append((kind, payload))
    raise _broken(wire, f"an invalid reply to option {option}")


def _context_id(wire: ClientSocket, replies: list[tuple[int, bytes]]) -> int | None:
    context_id = None
    for kind, payload in replies:
        if kind != REPLY_META_CONTEXT or len(payload) < 4 or payload[4:] != CONTEXT or context_id is not None:
            raise _broken(wire, "an invalid list of contexts")
        context_id = int.from_bytes(payload[:4], "big")
    return context_id


def _export(
    wire: ClientSocket, replies: list[tuple[int, bytes]], structured: bool, context_id: int | None
) -> ExportInfo:
    size = None
    flags = 0
    minimum, maximum = 1, DEFAULT_MAXIMUM_BLOCK
    for kind, payload in replies:
        information = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else -1
        if kind != REPLY_INFO or information < 0:
            raise _broken(wire, "an invalid description of its export")
        if information == INFO_EXPORT:
            if len(payload) != 12:
                raise _broken(wire, "an invalid description of its export")
            size, flags = struct.unpack(">QH", payload[2:])
        elif information == INFO_BLOCK_SIZE:
            if len(payload) != 14:
                raise _broken(wire, "invalid block sizes")
            minimum, _preferred, maximum = struct.unpack(">LLL", payload[2:])
            # The bounds of the protocol. A tiny maximum would cause millions of requests.
            if not 1 <= minimum <= 1 << 16 or minimum & (minimum - 1) or maximum < max(minimum, 512):
                raise _broken(wire, "invalid block sizes")
    if size is None or size > MAX_SIZE:
        raise _broken(wire, "an impossible size of its export")
    maximum = min(maximum, DEFAULT_MAXIMUM_BLOCK)
    return ExportInfo(size, flags, minimum, maximum - maximum % minimum, structured, context_id)


def _broken(wire: ClientSocket, what: str) -> NbdError:
    return NbdError(f"the NBD server at {wire.name} does not follow the protocol: it sent {what}")
