# SPDX-License-Identifier: GPL-2.0-or-later
"""Points served in this process, with their content, and clients that are real programs or raw sockets."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pitr.jobs.serve.over_nbd import DEFAULT_CACHE, Served, serving
from pitr.model import Backup
from pitr.nbd.client import Client, parse_url
from pitr.nbd.protocol import (
    GREETING,
    OPTION,
    OPTION_GO,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_SET_META_CONTEXT,
    OPTION_STRUCTURED_REPLY,
    REPLY_ACK,
    REQUEST,
    REQUEST_MAGIC,
)
from pitr.repository import Repository
from pitr.system.sockets import unix_listener
from tests.support.points import Writer, applied, disk

MIB = 1 << 20
#: A full and three incrementals: data over zeroes, zeroes over data, unchanged ranges, frames that are cut in two.
CHAIN = (
    "1m:A 1m:B 2m:0 1m:C 5243904:D",
    "512k:- 64k:E 3m:- 4k:F 1m:- 5238784:-",
    "100k:- 1m:0 64k:G 8m:- 880128:-",
    "10486784:- 512:H",
)
CHAIN_SIZE = 10487296


def store_chain(repository: Repository, texts: Sequence[str] = CHAIN) -> tuple[Backup, bytes]:
    """Store these backups of a disk, each based on the one before. Return the last point and its content."""
    writer = Writer(repository)
    content = bytearray()
    for number, text in enumerate(texts):
        writer.add(text)
        content = applied(content, text) if number else disk(text)[0]
    return writer.backups[-1], bytes(content)


@contextmanager
def served(
    repository: Repository, backup: Backup, *, cache_bytes: int = DEFAULT_CACHE
) -> Iterator[list[Served]]:
    """Serve all disks of a point on a unix socket."""
    with (
        tempfile.TemporaryDirectory() as folder,
        unix_listener(Path(folder) / "nbd") as listener,
        serving(repository, backup, backup.streams, listener, cache_bytes=cache_bytes) as disks,
    ):
        yield disks


def read(uri: str, offset: int, length: int) -> bytes:
    """Read a range with pitr's client."""
    data = bytearray(length)
    with Client(*parse_url(uri)) as client:
        client.read_into(offset, memoryview(data))
    return bytes(data)


class RawClient:
    """Sends any bytes to a server. The caller closes it."""

    def __init__(self, uri: str, *, flags: int = 3) -> None:
        address, self.export = parse_url(uri)
        assert isinstance(address, str)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(address)
        self.greeting = GREETING.unpack(self.receive(GREETING.size))
        self.send(struct.pack(">L", flags))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            assert part, f"the server closed the connection after {len(data)} of {length} bytes"
            data += part
        return data

    def closed(self) -> bool:
        """Return whether the server has closed the connection without sending more."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def option(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option. Return the replies, (type, data) each, up to the final one."""
        self.send(OPTION.pack(OPTION_MAGIC, number, len(data)) + data)
        replies = []
        while True:
            _, replied, kind, length = OPTION_REPLY.unpack(self.receive(OPTION_REPLY.size))
            assert replied == number
            replies.append((kind, self.receive(length)))
            if kind == REPLY_ACK or kind >> 31:
                return replies

    def go(self, *, structured: bool = True, context: bool = True) -> RawClient:
        """Open the export of the URI."""
        name = struct.pack(">L", len(self.export.encode())) + self.export.encode()
        if structured:
            assert self.option(OPTION_STRUCTURED_REPLY) == [(REPLY_ACK, b"")]
        if context:
            query = struct.pack(">LL", 1, 15) + b"base:allocation"
            assert self.option(OPTION_SET_META_CONTEXT, name + query)[-1] == (REPLY_ACK, b"")
        assert self.option(OPTION_GO, name + bytes(2))[-1] == (REPLY_ACK, b"")
        return self

    def request(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, handle: int = 7
    ) -> None:
        self.send(REQUEST.pack(REQUEST_MAGIC, flags, command, handle, offset, length))

    def simple(self) -> tuple[int, int]:
        """Receive a simple reply's header: (error, handle)."""
        magic, error, handle = struct.unpack(">LLQ", self.receive(16))
        assert magic == 0x67446698
        return error, handle

    def chunk(self) -> tuple[int, int, int, bytes]:
        """Receive a chunk: (flags, type, handle, payload)."""
        magic, flags, kind, handle, length = struct.unpack(">LHHQL", self.receive(20))
        assert magic == 0x668E33EF
        return flags, kind, handle, self.receive(length)

    def error(self) -> int:
        """Receive one error chunk that ends a reply; return the error."""
        flags, kind, _, payload = self.chunk()
        assert flags & 1 and kind >> 15
        return int.from_bytes(payload[:4], "big")
