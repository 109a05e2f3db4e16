# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's half of the fixed newstyle handshake: answer options until one of them opens an export."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pitr.nbd.protocol import (
    CONTEXT,
    DEFAULT_MAXIMUM_BLOCK,
    FLAG_CACHE,
    FLAG_DF,
    FLAG_HAS_FLAGS,
    FLAG_MULTI_CONNECTION,
    FLAG_READ_ONLY,
    GREETING,
    HANDSHAKE_FIXED,
    HANDSHAKE_NO_ZEROES,
    INFO_BLOCK_SIZE,
    INFO_DESCRIPTION,
    INFO_EXPORT,
    INFO_NAME,
    MAX_TEXT,
    OPTION,
    OPTION_ABORT,
    OPTION_EXPORT_NAME,
    OPTION_GO,
    OPTION_INFO,
    OPTION_LIST,
    OPTION_LIST_META_CONTEXT,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    OPTION_SET_META_CONTEXT,
    OPTION_STRUCTURED_REPLY,
    REPLY_ACK,
    REPLY_INFO,
    REPLY_INVALID,
    REPLY_META_CONTEXT,
    REPLY_SERVER,
    REPLY_TOO_BIG,
    REPLY_UNKNOWN,
    REPLY_UNSUPPORTED,
    SERVER_MAGIC,
)
from pitr.nbd.server.exports import Export, Exports
from pitr.nbd.server.wire import ClientBroken, Disconnected, ServerSocket

#: The id of base:allocation, the only context that the server has.
CONTEXT_ID: Final = 1
#: A client may read any byte, but whole frames of a blob are cheap.
MINIMUM_BLOCK: Final = 1
PREFERRED_BLOCK: Final = 64 << 10
MAXIMUM_BLOCK: Final = DEFAULT_MAXIMUM_BLOCK

FLAGS: Final = (
    FLAG_HAS_FLAGS | FLAG_READ_ONLY | FLAG_DF | FLAG_MULTI_CONNECTION | FLAG_CACHE
)  # fmt: skip

#: Enough for a name and some queries. The server reads and refuses longer options, up to the longest message.
_MAX_OPTION: Final = 1 << 16
_MAX_DISCARDED: Final = DEFAULT_MAXIMUM_BLOCK
#: Far more than a program needs that lists all exports and asks for each. It stops a client that never ends.
_MAX_OPTIONS: Final = 4096
#: A silent client holds a connection that other clients may need.
OPTION_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class NegotiatedExport:
    """The export that a client has opened, and the form of the answers that it wants."""

    export: Export
    structured: bool
    #: Whether the client may ask for the block status.
    context: bool


class _Invalid(Exception):
    """The data of an option is invalid."""


def negotiate(wire: ServerSocket, exports: Exports) -> NegotiatedExport | None:
    """Answer a client's options. Return None when it disconnects. Raises Disconnected and ClientBroken."""
    wire.timeout(OPTION_TIMEOUT_S)
    wire.send([GREETING.pack(SERVER_MAGIC, OPTION_MAGIC, HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES)])
    (flags,) = struct.unpack(">L", wire.receive(4))
    if flags & ~(HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES):
        raise ClientBroken(f"unknown handshake flags {flags:#x}")
    if not flags & HANDSHAKE_FIXED:
        raise ClientBroken("it does not support the fixed newstyle handshake")
    return _Handshake(wire, exports, no_zeroes=bool(flags & HANDSHAKE_NO_ZEROES)).run()


class _Handshake:
    def __init__(self, wire: ServerSocket, exports: Exports, *, no_zeroes: bool) -> None:
        self._wire = wire
        self._exports = exports
        self._no_zeroes = no_zeroes
        self._structured = False
        #: The export for which the client has set the context.
        self._context_of: Export | None = None

    def run(self) -> NegotiatedExport | None:
        for _ in range(_MAX_OPTIONS):
            magic, option, length = OPTION.unpack(self._wire.receive(OPTION.size))
            if magic != OPTION_MAGIC or length > _MAX_DISCARDED:
                raise ClientBroken("it sent something that is not an option")
            if length > _MAX_OPTION:
                self._wire.discard(length)
                if option == OPTION_EXPORT_NAME:
                    raise ClientBroken("it asks for an export with too long a name")
                self._reply(option, REPLY_TOO_BIG, b"at most 64 KiB")
                continue
            data = self._wire.receive(length)
            if option == OPTION_ABORT:
                self._acknowledge_abort()
                return None
            if option == OPTION_EXPORT_NAME:
                return self._export_name(data)
            try:
                opened = self._answer(option, data)
            except _Invalid as error:
                self._reply(option, REPLY_INVALID, str(error).encode())
            else:
                if opened is not None:
                    return opened
        raise ClientBroken("it sent too many options")

    def _answer(self, option: int, data: bytes) -> NegotiatedExport | None:
        if option == OPTION_LIST:
            self._list(data)
        elif option in (OPTION_INFO, OPTION_GO):
            return self._info(option, data)
        elif option == OPTION_STRUCTURED_REPLY:
            if data:
                raise _Invalid("the option for structured replies takes no data")
            self._structured = True
            self._reply(option, REPLY_ACK)
        elif option in (OPTION_LIST_META_CONTEXT, OPTION_SET_META_CONTEXT):
            self._contexts(option, data)
        else:
            self._reply(option, REPLY_UNSUPPORTED, b"not supported")
        return None

    def _acknowledge_abort(self) -> None:
        try:
            self._reply(OPTION_ABORT, REPLY_ACK)
        except Disconnected:
            return

    def _export_name(self, name: bytes) -> NegotiatedExport:
        export = self._exports.named(name)
        if export is None:
            # The protocol defines no other answer to this option.
            raise ClientBroken("it asks for an unknown export")
        padding = b"" if self._no_zeroes else bytes(124)
        self._wire.send([struct.pack(">QH", export.content.size, FLAGS) + padding])
        return self._opened(export)

    def _list(self, data: bytes) -> None:
        if data:
            raise _Invalid("the option for a list takes no data")
        for name, export in self._exports.listed():
            description = _text(export.description)
            self._reply(OPTION_LIST, REPLY_SERVER, struct.pack(">L", len(name)) + name + description)
        self._reply(OPTION_LIST, REPLY_ACK)

    def _info(self, option: int, data: bytes) -> NegotiatedExport | None:
        name, rest = _name(data)
        if len(rest) < 2 or len(rest) != 2 + 2 * int.from_bytes(rest[:2], "big"):
            raise _Invalid("the list of information requests is truncated")
        wanted = {number for (number,) in struct.iter_unpack(">H", rest[2:])}
        export = self._exports.named(name)
        if export is None:
            self._reply(option, REPLY_UNKNOWN, b"unknown export")
            return None
        information = [struct.pack(">HQH", INFO_EXPORT, export.content.size, FLAGS)]
        if INFO_NAME in wanted:
            information.append(struct.pack(">H", INFO_NAME) + name)
        if INFO_DESCRIPTION in wanted:
            information.append(struct.pack(">H", INFO_DESCRIPTION) + _text(export.description))
        information.append(
            struct.pack(">HLLL", INFO_BLOCK_SIZE, MINIMUM_BLOCK, PREFERRED_BLOCK, MAXIMUM_BLOCK)
        )
        for payload in information:
            self._reply(option, REPLY_INFO, payload)
        self._reply(option, REPLY_ACK)
        return self._opened(export) if option == OPTION_GO else None

    def _contexts(self, option: int, data: bytes) -> None:
        if option == OPTION_SET_META_CONTEXT:
            # The option drops the context that was set before, even when it fails.
            self._context_of = None
        if not self._structured:
            raise _Invalid("contexts need structured replies")
        name, rest = _name(data)
        queries = _queries(rest)
        export = self._exports.named(name)
        if export is None:
            self._reply(option, REPLY_UNKNOWN, b"unknown export")
            return
        if option == OPTION_LIST_META_CONTEXT:
            if not queries or CONTEXT in queries or CONTEXT.partition(b":")[0] + b":" in queries:
                # The replies to a list carry no ids.
                self._reply(option, REPLY_META_CONTEXT, struct.pack(">L", 0) + CONTEXT)
        elif CONTEXT in queries:
            self._context_of = export
            self._reply(option, REPLY_META_CONTEXT, struct.pack(">L", CONTEXT_ID) + CONTEXT)
        self._reply(option, REPLY_ACK)

    def _opened(self, export: Export) -> NegotiatedExport:
        return NegotiatedExport(export, self._structured, self._structured and self._context_of is export)

    def _reply(self, option: int, kind: int, payload: bytes = b"") -> None:
        self._wire.send([OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload])


def _name(data: bytes) -> tuple[bytes, bytes]:
    """Return the name of an export at the beginning of `data`, and the rest."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or length > len(data) - 4 or length > MAX_TEXT:
        raise _Invalid("the length of the name is invalid")
    return data[4 : 4 + length], data[4 + length :]


def _queries(data: bytes) -> list[bytes]:
    """Return the items of a counted list of strings."""
    count = int.from_bytes(data[:4], "big")
    if len(data) < 4 or count > (len(data) - 4) // 4:
        raise _Invalid("the number of queries is invalid")
    queries = []
    rest = data[4:]
    for _ in range(count):
        query, rest = _name(rest)
        queries.append(query)
    if rest:
        raise _Invalid("the option has data after its queries")
    return queries


def _text(text: str) -> bytes:
    """Encode a text for people, shortened to the limit of the protocol."""
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore").encode()
