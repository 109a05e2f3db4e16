# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that violate the protocol or use its limits: each gets its answer, and other clients do not notice."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.nbd.protocol import (
    BLOCK_STATUS,
    CACHE,
    CHUNK_BLOCK_STATUS,
    CHUNK_DATA,
    CHUNK_HOLE,
    CHUNK_NONE,
    COMMAND_DF,
    COMMAND_ONE,
    DISCONNECT,
    EINVAL,
    EOVERFLOW,
    EPERM,
    FLUSH,
    OPTION,
    OPTION_ABORT,
    OPTION_EXPORT_NAME,
    OPTION_GO,
    OPTION_INFO,
    OPTION_LIST,
    OPTION_LIST_META_CONTEXT,
    OPTION_MAGIC,
    OPTION_SET_META_CONTEXT,
    OPTION_STRUCTURED_REPLY,
    READ,
    REPLY_ACK,
    REPLY_INVALID,
    REPLY_TOO_BIG,
    REPLY_UNKNOWN,
    REPLY_UNSUPPORTED,
    REQUEST,
    REQUEST_MAGIC,
    TRIM,
    WRITE,
    WRITE_ZEROES,
)
from pitr.nbd.server import Exports, NbdServer
from pitr.repository import Repository
from pitr.system.sockets import tcp_listener
from tests.support.pitr import wait_until
from tests.support.serving import CHAIN_SIZE, MIB, RawClient, read, served, store_chain

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, bytes]]:
    """The URI and the content of a point, which must be served well to the end, whatever the tests do."""
    with Repository.create(tmp_path_factory.mktemp("served") / "repository") as repository:
        backup, content = store_chain(repository)
        with served(repository, backup) as (one,):
            yield one.uri, content
            assert read(one.uri, 0, CHAIN_SIZE) == content


@pytest.fixture
def uri(point: tuple[str, bytes]) -> str:
    return point[0]


@pytest.fixture
def content(point: tuple[str, bytes]) -> bytes:
    return point[1]


def named(name: bytes) -> bytes:
    return struct.pack(">L", len(name)) + name


# The handshake


@pytest.mark.parametrize("flags", [0, 2, 4, 7, 1 << 31])
def test_wrong_handshake_flags_end_the_connection(uri: str, flags: int) -> None:
    with RawClient(uri, flags=flags) as client:
        assert client.closed()


@pytest.mark.parametrize("flags", [1, 3])
def test_the_old_way_to_open_an_export_works(uri: str, content: bytes, flags: int) -> None:
    with RawClient(uri, flags=flags) as client:
        client.send(OPTION.pack(OPTION_MAGIC, OPTION_EXPORT_NAME, 5) + b"disk0")
        size, told = struct.unpack(">QH", client.receive(10))
        assert size == CHAIN_SIZE and told & 3 == 3
        if not flags & 2:
            assert client.receive(124) == bytes(124)
        # The client has not asked for structured replies.
        client.request(READ, MIB - 100, 300)
        assert client.simple() == (0, 7)
        assert client.receive(300) == content[MIB - 100 : MIB + 200]
        client.request(READ, CHAIN_SIZE, 1)
        assert client.simple() == (EINVAL, 7)
        client.request(BLOCK_STATUS, 0, 512)
        assert client.simple() == (EINVAL, 7)


def test_the_old_way_to_an_unknown_export_ends_the_connection(uri: str) -> None:
    for name in (b"disk9", b"x" * 100_000):
        with RawClient(uri) as client:
            client.send(OPTION.pack(OPTION_MAGIC, OPTION_EXPORT_NAME, len(name)) + name)
            assert client.closed()


@pytest.mark.parametrize(
    ("option", "data", "reply"),
    [
        (OPTION_LIST, b"x", REPLY_INVALID),
        (OPTION_STRUCTURED_REPLY, b"x", REPLY_INVALID),
        (5, b"", REPLY_UNSUPPORTED),  # TLS
        (11, b"", REPLY_UNSUPPORTED),  # extended headers
        (0xFFFFFFFF, b"x" * 65536, REPLY_UNSUPPORTED),
        (OPTION_GO, b"x" * 65537, REPLY_TOO_BIG),
        (OPTION_GO, b"", REPLY_INVALID),
        (OPTION_GO, named(b"disk0"), REPLY_INVALID),
        (OPTION_GO, named(b"disk0") + b"\0\1", REPLY_INVALID),
        (OPTION_GO, named(b"disk0") + b"\0\0\0", REPLY_INVALID),
        (OPTION_GO, struct.pack(">L", 0xFFFFFFFF) + b"disk0\0\0", REPLY_INVALID),
        (OPTION_GO, named(b"x" * 4097) + b"\0\0", REPLY_INVALID),
        (OPTION_GO, named(b"no such") + b"\0\0", REPLY_UNKNOWN),
        (OPTION_INFO, named(b"\xff\xfe\0") + b"\0\0", REPLY_UNKNOWN),
        (OPTION_SET_META_CONTEXT, named(b"disk0") + bytes(4), REPLY_INVALID),  # before structured replies
    ],
)
def test_wrong_options_are_refused_and_the_client_may_go_on(
    uri: str, option: int, data: bytes, reply: int
) -> None:
    with RawClient(uri) as client:
        ((kind, _),) = client.option(option, data)
        assert kind == reply
        client.go()


@pytest.mark.parametrize(
    "queries",
    [
        b"",
        struct.pack(">L", 2) + named(b"base:allocation"),
        struct.pack(">L", 0xFFFFFFFF),
        struct.pack(">L", 1) + struct.pack(">L", 100) + b"base:",
        struct.pack(">L", 1) + named(b"base:allocation") + b"x",
    ],
)
def test_contexts_are_asked_for_as_they_should_be(uri: str, queries: bytes) -> None:
    with RawClient(uri) as client:
        client.option(OPTION_STRUCTURED_REPLY)
        ((kind, _),) = client.option(OPTION_SET_META_CONTEXT, named(b"disk0") + queries)
        assert kind == REPLY_INVALID


def test_contexts_are_listed(uri: str) -> None:
    with RawClient(uri) as client:
        client.option(OPTION_STRUCTURED_REPLY)
        for queries, found in (((), 1), ((b"base:",), 1), ((b"base:allocation",), 1), ((b"qemu:",), 0)):
            data = named(b"disk0") + struct.pack(">L", len(queries)) + b"".join(map(named, queries))
            replies = client.option(OPTION_LIST_META_CONTEXT, data)
            assert len(replies) == found + 1 and replies[-1] == (REPLY_ACK, b"")


def test_a_context_that_was_taken_back_or_is_of_another_export_counts_no_more(uri: str) -> None:
    with RawClient(uri) as client:
        client.option(OPTION_STRUCTURED_REPLY)
        one = named(b"disk0") + struct.pack(">L", 1) + named(b"base:allocation")
        assert len(client.option(OPTION_SET_META_CONTEXT, one)) == 2
        assert client.option(OPTION_SET_META_CONTEXT, named(b"nothing") + bytes(4))[0][0] == REPLY_UNKNOWN
        client.go(context=False)
        client.request(BLOCK_STATUS, 0, 512)
        assert client.error() == EINVAL


def test_who_takes_leave_gets_an_answer(uri: str) -> None:
    with RawClient(uri) as client:
        assert client.option(OPTION_ABORT) == [(REPLY_ACK, b"")]
        assert client.closed()


def test_options_without_end_are_cut_off(uri: str) -> None:
    with RawClient(uri) as client:
        with pytest.raises((AssertionError, OSError)):
            for _ in range(10_000):
                client.option(OPTION_LIST)
        assert client.closed()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n" * 10, b"\0" * 64, b"\xff" * 64])
def test_what_is_no_option_ends_the_connection(uri: str, garbage: bytes) -> None:
    with RawClient(uri) as client:
        client.send(garbage)
        assert client.closed()


def test_a_client_that_vanishes_during_the_handshake_does_no_harm(uri: str) -> None:
    for length in range(0, 40, 3):
        with RawClient(uri) as client:
            client.send((OPTION.pack(OPTION_MAGIC, OPTION_GO, 1000) + bytes(100))[:length])


# Requests


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (READ, CHAIN_SIZE, 1, 0, EINVAL),
        (READ, CHAIN_SIZE - 1, 2, 0, EINVAL),
        (READ, (1 << 64) - 1, 1, 0, EINVAL),
        (READ, (1 << 64) - 1, 0xFFFFFFFF, 0, EINVAL),
        (READ, 0, 0, 0, EINVAL),
        (READ, 0, 0xFFFFFFFF, 0, EINVAL),
        (READ, 0, 512, 1 << 9, EINVAL),
        (READ, 0, 2 * MIB, COMMAND_DF, EOVERFLOW),
        (BLOCK_STATUS, 0, 0, 0, EINVAL),
        (BLOCK_STATUS, CHAIN_SIZE - 1, 2, 0, EINVAL),
        (BLOCK_STATUS, 1 << 63, 1, 0, EINVAL),
        (BLOCK_STATUS, 0, 512, 1 << 2, EINVAL),
        (CACHE, CHAIN_SIZE, 1, 0, EINVAL),
        (CACHE, 0, 0, 0, EINVAL),
        (TRIM, 0, 4096, 0, EPERM),
        (WRITE_ZEROES, 0, 4096, 0, EPERM),
        (WRITE_ZEROES, 1 << 63, 0xFFFFFFFF, 1, EPERM),
        (FLUSH, 0, 0, 0, EINVAL),
        (8, 0, 0, 0, EINVAL),
        (0xFFFF, 0, 512, 0xFFFF, EINVAL),
    ],
)
def test_wrong_requests_fail_and_the_connection_goes_on(
    uri: str, content: bytes, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    with RawClient(uri).go() as client:
        client.request(command, offset, length, flags=flags)
        assert client.error() == error
        client.request(READ, 1, 1)
        assert client.chunk() == (1, CHUNK_DATA, 7, bytes(7) + b"\1" + content[1:2])


@pytest.mark.parametrize("length", [0, 1, 512, 100_000, 32 * MIB])
def test_what_is_written_is_passed_over_and_refused(uri: str, content: bytes, length: int) -> None:
    with RawClient(uri).go() as client:
        client.request(WRITE, 0, length)
        # The server must not read the payload as requests.
        request = REQUEST.pack(REQUEST_MAGIC, 0, DISCONNECT, 1, 0, 0)
        client.send((request * (length // len(request) + 1))[:length])
        assert client.error() == EPERM
        client.request(READ, 0, 1)
        assert client.chunk()[3][8:] == content[:1]


@pytest.mark.parametrize("length", [32 * MIB + 1, 0xFFFFFFFF])
def test_who_writes_too_much_at_once_is_cut_off(uri: str, length: int) -> None:
    with RawClient(uri).go() as client:
        client.request(WRITE, 0, length)
        assert client.closed()


def test_what_is_no_request_ends_the_connection(uri: str) -> None:
    with RawClient(uri).go() as client:
        client.send(b"\0" * REQUEST.size)
        assert client.closed()


def test_a_read_comes_in_chunks_with_holes(uri: str, content: bytes) -> None:
    with RawClient(uri).go() as client:
        client.request(READ, 0, CHAIN_SIZE, handle=0xFFFFFFFFFFFFFFFF)
        got = bytearray(b"?" * CHAIN_SIZE)
        holes, flags = 0, 0
        while not flags & 1:
            flags, kind, handle, payload = client.chunk()
            assert handle == 0xFFFFFFFFFFFFFFFF and kind in (CHUNK_DATA, CHUNK_HOLE)
            at = int.from_bytes(payload[:8], "big")
            if kind == CHUNK_HOLE:
                length = int.from_bytes(payload[8:], "big")
                holes += length
                got[at : at + length] = bytes(length)
            else:
                got[at : at + len(payload) - 8] = payload[8:]
    assert got == content
    assert holes > MIB


def test_a_read_that_must_not_be_cut_comes_in_one_chunk(uri: str, content: bytes) -> None:
    with RawClient(uri).go() as client:
        start = MIB + MIB // 2
        client.request(READ, start, MIB, flags=COMMAND_DF)
        flags, kind, _, payload = client.chunk()
        assert (flags, kind) == (1, CHUNK_DATA)
        assert payload[8:] == content[start : start + MIB]


def test_simple_replies_are_whole(uri: str, content: bytes) -> None:
    with RawClient(uri).go(structured=False, context=False) as client:
        client.request(READ, 0, CHAIN_SIZE)
        assert client.simple() == (0, 7)
        assert client.receive(CHAIN_SIZE) == content


def test_block_status_is_as_long_as_is_asked_for(uri: str) -> None:
    with RawClient(uri).go() as client:
        client.request(BLOCK_STATUS, 12345, CHAIN_SIZE - 12345)
        _, kind, _, payload = client.chunk()
        pairs = list(struct.iter_unpack(">LL", payload[4:]))
        assert kind == CHUNK_BLOCK_STATUS
        assert len(pairs) > 4 and sum(length for length, _ in pairs) == CHAIN_SIZE - 12345
        client.request(BLOCK_STATUS, 12345, CHAIN_SIZE - 12345, flags=COMMAND_ONE)
        assert client.chunk()[3][4:] == struct.pack(">LL", *pairs[0])


def test_to_cache_is_to_have_it_ready(uri: str) -> None:
    with RawClient(uri).go() as client:
        client.request(CACHE, 0, CHAIN_SIZE)
        assert client.chunk() == (1, CHUNK_NONE, 7, b"")


def test_requests_that_come_byte_by_byte_or_all_at_once_are_answered_alike(uri: str, content: bytes) -> None:
    chance = random.Random(5)
    wanted = [
        (handle, chance.randrange(CHAIN_SIZE - 5000), chance.randrange(1, 5000)) for handle in range(500)
    ]
    requests = b"".join(
        REQUEST.pack(REQUEST_MAGIC, 0, READ, handle, offset, length) for handle, offset, length in wanted
    )
    with RawClient(uri).go(structured=False, context=False) as client:
        sender = threading.Thread(target=client.send, args=(requests,))
        sender.start()
        for handle, offset, length in wanted:
            assert client.simple() == (0, handle)
            assert client.receive(length) == content[offset : offset + length]
        sender.join()
        for at in range(REQUEST.size * 3):
            client.send(requests[at : at + 1])
        for handle, offset, length in wanted[:3]:
            assert client.simple() == (0, handle)
            assert client.receive(length) == content[offset : offset + length]


def test_clients_that_do_not_take_their_replies_keep_nobody_waiting(uri: str, content: bytes) -> None:
    slow = []
    for _ in range(8):
        client = RawClient(uri).go()
        slow.append(client)
        client.socket.setblocking(False)
        try:
            for _ in range(10_000):
                client.request(READ, 0, CHAIN_SIZE)
        except BlockingIOError:
            continue
        pytest.fail("the server takes requests without end")
    started_at = time.monotonic()
    assert read(uri, 0, CHAIN_SIZE) == content
    assert time.monotonic() - started_at < 10
    for client in slow:
        client.socket.close()


def test_random_bytes_never_harm(uri: str, content: bytes) -> None:
    chance = random.Random(9)
    for turn in range(60):
        with RawClient(uri) as client:
            if turn % 2:
                client.go()
                header = REQUEST.pack(
                    REQUEST_MAGIC, *(chance.getrandbits(bits) for bits in (16, 3, 64, 24, 16))
                )
                client.send(header + chance.randbytes(chance.randrange(200)))
            else:
                client.send(OPTION.pack(OPTION_MAGIC, chance.randrange(12), chance.randrange(200)))
                client.send(chance.randbytes(200))
    assert read(uri, 0, 100) == content[:100]


def test_too_many_clients_are_sent_away_and_the_others_stay(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        tcp_listener("127.0.0.1", 0) as listener,
        NbdServer(Exports([]), listener, max_connections=3) as server,
    ):
        where = listener.getsockname()
        clients = [socket.create_connection(where, 10) for _ in range(3)]
        assert all(client.recv(18) for client in clients)
        for _ in range(5):
            with socket.create_connection(where, 10) as more:
                assert more.recv(18) == b""
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        clients.pop().close()
        wait_until(lambda: server.connections == 2, "a place becomes free")
        with socket.create_connection(where, 10) as again:
            assert len(again.recv(18)) == 18
        for client in clients:
            client.close()


def test_closing_cuts_off_whoever_is_there(repository: Repository, tmp_path: Path) -> None:
    backup, _ = store_chain(repository)
    with served(repository, backup) as (one,):
        idle, opened, stuck = RawClient(one.uri), RawClient(one.uri).go(), RawClient(one.uri).go()
        for _ in range(30):
            stuck.request(READ, 0, CHAIN_SIZE)
        started_at = time.monotonic()
    assert time.monotonic() - started_at < 5
    for client in (idle, opened):
        assert client.closed()
        client.socket.close()
    stuck.socket.close()
