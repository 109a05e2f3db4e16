# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's half of the fixed newstyle handshake: options are answered until one of them opens an export."""

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

#: Of the base:allocation context, the only one that there is.
CONTEXT_ID: Final = 1
#: Any byte can be read; whole frames of a blob are what is cheap.
MINIMUM_BLOCK: Final = 1
PREFERRED_BLOCK: Final = 64 << 10
MAXIMUM_BLOCK: Final = DEFAULT_MAXIMUM_BLOCK

FLAGS: Final = (
    FLAG_HAS_FLAGS | FLAG_READ_ONLY | FLAG_DF | FLAG_MULTI_CONNECTION | FLAG_CACHE
)  # fmt: skip

#: A name and some queries or requests; more than that is read, and refused, up to what a client may send at all.
_MAX_OPTION: Final = 1 << 16
_MAX_DISCARDED: Final = DEFAULT_MAXIMUM_BLOCK
#: A program that lists exports and asks for each is done far below; one that never ends is sent away.
_MAX_OPTIONS: Final = 4096
#: Who says nothing for so long holds a connection that others want.
OPTION_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class NegotiatedExport:
    """What a client has opened, and how it wants its answers."""

    export: Export
    structured: bool
    #: Whether it may ask for the block status.
    context: bool


class _Invalid(Exception):
    """An option's data is not what it should be."""


def negotiate(wire: ServerSocket, exports: Exports) -> NegotiatedExport | None:
    """Lead a client through the handshake; None when it took leave. Raises ClientGone and ClientBroken."""
    wire.timeout(OPTION_TIMEOUT_S)
    wire.send([GREETING.pack(SERVER_MAGIC, OPTION_MAGIC, HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES)])
    (flags,) = struct.unpack(">L", wire.receive(4))
    if flags & ~(HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES):
        raise ClientBroken(f"unknown handshake flags {flags:#x}")
    if not flags & HANDSHAKE_FIXED:
        raise ClientBroken("it does not know the fixed newstyle handshake")
    return _Handshake(wire, exports, no_zeroes=bool(flags & HANDSHAKE_NO_ZEROES)).run()


class _Handshake:
    def __init__(self, wire: ServerSocket, exports: Exports, *, no_zeroes: bool) -> None:
        self._wire = wire
        self._exports = exports
        self._no_zeroes = no_zeroes
        self._structured = False
        #: The export that the client has set the context for.
        self._context_of: Export | None = None

    def run(self) -> NegotiatedExport | None:
        for _ in range(_MAX_OPTIONS):
            magic, option, length = OPTION.unpack(self._wire.receive(OPTION.size))
            if magic != OPTION_MAGIC or length > _MAX_DISCARDED:
                raise ClientBroken("what it sent is no option")
            if length > _MAX_OPTION:
                self._wire.discard(length)
                if option == OPTION_EXPORT_NAME:
                    raise ClientBroken("the name of its export is too long")
                self._reply(option, REPLY_TOO_BIG, b"at most 64 KiB")
                continue
            data = self._wire.receive(length)
            if option == OPTION_ABORT:
                self._take_leave()
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
                raise _Invalid("structured replies take no data")
            self._structured = True
            self._reply(option, REPLY_ACK)
        elif option in (OPTION_LIST_META_CONTEXT, OPTION_SET_META_CONTEXT):
            self._contexts(option, data)
        else:
            self._reply(option, REPLY_UNSUPPORTED, b"not supported")
        return None

    def _take_leave(self) -> None:
        try:
            self._reply(OPTION_ABORT, REPLY_ACK)
        except Disconnected:
            return

    def _export_name(self, name: bytes) -> NegotiatedExport:
        export = self._exports.named(name)
        if export is None:
            # The protocol has no other answer here.
            raise ClientBroken("there is no export of the name that it wants")
        padding = b"" if self._no_zeroes else bytes(124)
        self._wire.send([struct.pack(">QH", export.content.size, FLAGS) + padding])
        return self._opened(export)

    def _list(self, data: bytes) -> None:
        if data:
            raise _Invalid("a list takes no data")
        for name, export in self._exports.listed():
            description = _text(export.description)
            self._reply(OPTION_LIST, REPLY_SERVER, struct.pack(">L", len(name)) + name + description)
        self._reply(OPTION_LIST, REPLY_ACK)

    def _info(self, option: int, data: bytes) -> NegotiatedExport | None:
        name, rest = _name(data)
        if len(rest) < 2 or len(rest) != 2 + 2 * int.from_bytes(rest[:2], "big"):
            raise _Invalid("its requests for information are cut off")
        wanted = {number for (number,) in struct.iter_unpack(">H", rest[2:])}
        export = self._exports.named(name)
        if export is None:
            self._reply(option, REPLY_UNKNOWN, b"there is no export of this name")
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
            # Whatever was set before is gone, also when this fails.
            self._context_of = None
        if not self._structured:
            raise _Invalid("contexts need structured replies")
        name, rest = _name(data)
        queries = _queries(rest)
        export = self._exports.named(name)
        if export is None:
            self._reply(option, REPLY_UNKNOWN, b"there is no export of this name")
            return
        if option == OPTION_LIST_META_CONTEXT:
            if not queries or CONTEXT in queries or CONTEXT.partition(b":")[0] + b":" in queries:
                # A list gives no ids.
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
    """Take the name of an export off the beginning of `data`."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or length > len(data) - 4 or length > MAX_TEXT:
        raise _Invalid("the length of its name cannot be")
    return data[4 : 4 + length], data[4 + length :]


def _queries(data: bytes) -> list[bytes]:
    """Take apart a counted list of texts."""
    count = int.from_bytes(data[:4], "big")
    if len(data) < 4 or count > (len(data) - 4) // 4:
        raise _Invalid("the number of its queries cannot be")
    queries = []
    rest = data[4:]
    for _ in range(count):
        query, rest = _name(rest)
        queries.append(query)
    if rest:
        raise _Invalid("something follows its queries")
    return queries


def _text(text: str) -> bytes:
    """A text for people, no longer than texts may be."""
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore").encode()
