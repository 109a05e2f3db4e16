# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD client against a real qemu-nbd, and against servers that violate the protocol."""

from __future__ import annotations

import random
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.endpoints.images.qemu_nbd import QemuNbd
from pitr.errors import NbdError, PitrError, UsageError
from pitr.nbd.client import Client, parse_url
from pitr.system.process import run

SIZE = 10487296
MIB = 1 << 20


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nbd+unix:///?socket=/run/x.sock", ("/run/x.sock", "")),
        ("nbd+unix:///a%20b?socket=/run/a+b%20c", ("/run/a+b c", "a b")),
        ("nbd:unix:/run/x:y.sock:exportname=sda", ("/run/x:y.sock", "sda")),
        ("nbd:unix:/run/x.sock", ("/run/x.sock", "")),
        ("nbd:localhost:10810:exportname=sda", (("localhost", 10810), "sda")),
        ("nbd:[::1]:10810", (("::1", 10810), "")),
        ("nbd://host/sda", (("host", 10809), "sda")),
        ("nbd://[::1]:1234", (("::1", 1234), "")),
    ],
)
def test_urls_name_a_server_and_an_export(url: str, expected: object) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *["", "nbds://host/x", "http://host/", "nbd:", "nbd:unix:", "nbd:host", "nbd:host:port"],
        *["nbd:host:99999", "nbd:///x", "nbd://host:port/", "nbd+unix:///x", "nbd+unix:///x?socket="],
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        parse_url(url)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SIZE)])
    return path


@pytest.fixture
def url(image: Path) -> Iterator[str]:
    with QemuNbd(image, "qcow2", read_only=False) as server:
        yield server.url


def read(client: Client, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    client.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_what_is_written_zeroed_and_discarded_is_read(url: str) -> None:
    rng = random.Random(3)
    expected = bytearray(SIZE)
    with Client(*parse_url(url)) as client:
        assert client.size == SIZE
        assert client.can_zero
        assert client.can_discard
        assert client.can_flush
        assert client.can_extents
        assert not client.read_only
        for _ in range(200):
            offset = rng.randrange(SIZE)
            length = rng.choice([1, 512, 4096, 65536, 300_000])
            length = min(length, SIZE - offset)
            if rng.random() < 0.6:
                data = rng.randbytes(length)
                client.write(offset, data)
                expected[offset : offset + length] = data
            else:
                client.zero(offset, length, unmap=rng.random() < 0.5)
                expected[offset : offset + length] = bytes(length)
        client.flush()
        assert read(client, 0, SIZE) == expected
        client.discard(0, 65536)
    with Client(*parse_url(url)) as client:
        assert read(client, 65536, SIZE - 65536) == expected[65536:]


def test_requests_longer_than_the_servers_maximum_are_split(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as image:
        image.truncate(80 * MIB)
    content = random.Random(5).randbytes(70 * MIB)
    with QemuNbd(path, "raw", read_only=False) as server, Client(*parse_url(server.url)) as client:
        assert client.maximum_block == 32 * MIB
        client.write(MIB, content)
        assert read(client, MIB, len(content)) == content
        assert read(client, 0, MIB) == bytes(MIB)


def test_extents_of_a_huge_disk_come_in_pages(tmp_path: Path) -> None:
    path, size = tmp_path / "disk", (20 << 30) + 512
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)])
    with QemuNbd(path, "qcow2", read_only=False) as server, Client(*parse_url(server.url)) as client:
        client.write(9 << 30, b"x" * 65536)
        client.write(size - 512, b"x" * 512)
        assert [tuple(extent) for extent in client.extents()] == [
            (0, 9 << 30, True),
            (9 << 30, 65536, False),
            ((9 << 30) + 65536, (11 << 30) - 65536, True),
            (20 << 30, 512, False),
        ]


def test_a_refused_request_leaves_the_connection_usable(image: Path) -> None:
    with QemuNbd(image, "qcow2", read_only=True) as server, Client(*parse_url(server.url)) as client:
        assert client.read_only
        for _ in range(2):
            with pytest.raises(
                NbdError, match=r"failed to write 512 bytes at 0: invalid request \(Export is read-only\)"
            ) as raised:
                client.write(0, b"x" * 512)
            assert not raised.value.connection_lost
        assert not client.closed
        assert read(client, 0, 512) == bytes(512)


def test_an_export_that_does_not_exist_is_refused(url: str) -> None:
    address, _ = parse_url(url)
    with pytest.raises(NbdError, match="no export of this name") as raised:
        Client(address, "other")
    assert not raised.value.connection_lost


def test_no_server_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NbdError, match=r"cannot connect to the NBD server at .*: No such file") as raised:
        Client(str(tmp_path / "none"))
    assert raised.value.connection_lost


def test_ranges_outside_are_refused_here(url: str) -> None:
    with Client(*parse_url(url)) as client:
        for offset, length in [(-1, 1), (SIZE, 1), (0, SIZE + 1)]:
            with pytest.raises(NbdError, match="outside"):
                read(client, offset, length)
        with pytest.raises(NbdError, match="outside"):
            client.write(SIZE - 1, b"xx")
        assert not client.closed


def test_a_closed_client_is_closed(url: str) -> None:
    client = Client(*parse_url(url))
    client.close()
    client.close()
    assert client.closed
    with pytest.raises(NbdError, match="closed"):
        read(client, 0, 1)


# A server of a few lines: it negotiates correctly, and the test decides its answers.

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
STRUCTURED, SIMPLE = 0x668E33EF, 0x67446698
GO, STRUCTURED_REPLY, META_CONTEXT = 7, 8, 10
FLAGS = 1 | 4 | 32 | 64
Answer = Callable[[int, int, int, int], bytes]


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QLLL", 0x3E889045565A9, option, kind, len(data)) + data


def chunk(kind: int, handle: int, data: bytes = b"", *, done: bool = True) -> bytes:
    return struct.pack(">LHHQL", STRUCTURED, done, kind, handle, len(data)) + data


def data_chunk(handle: int, offset: int, data: bytes, *, done: bool = False) -> bytes:
    return chunk(1, handle, struct.pack(">Q", offset) + data, done=done)


def good_negotiation(option: int) -> bytes:
    if option == META_CONTEXT:
        return option_reply(option, 4, struct.pack(">L", 7) + b"base:allocation") + option_reply(option, 1)
    if option == GO:
        return option_reply(option, 3, struct.pack(">HQH", 0, 65536, FLAGS)) + option_reply(option, 1)
    return option_reply(option, 1)


@contextmanager
def server(
    answer: Answer, *, negotiate: Callable[[int], bytes] = good_negotiation, greeting: bytes = GREETING
) -> Iterator[str]:
    """Serve one client. `answer` gets (command, handle, offset, length); an empty answer closes the connection."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as folder:
        path = f"{folder}/s"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener, answer, negotiate, greeting))
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()


def serve(
    listener: socket.socket, answer: Answer, negotiate: Callable[[int], bytes], greeting: bytes
) -> None:
    try:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            connection.sendall(greeting)
            stream.read(4)
            option = 0
            while option != GO:
                _, option, length = struct.unpack(">8sLL", stream.read(16))
                stream.read(length)
                connection.sendall(negotiate(option))
            while head := stream.read(28):
                _, _, command, handle, offset, length = struct.unpack(">LHHQQL", head)
                if command == 1:
                    stream.read(length)
                reply = answer(command, handle, offset, length)
                if not reply or command == 2:
                    return
                connection.sendall(reply)
    except (OSError, struct.error):
        return  # The client has gone, as it should.


def zeroes(command: int, handle: int, offset: int, length: int) -> bytes:
    return chunk(2, handle, struct.pack(">QL", offset, length))


def test_pieces_of_an_answer_may_come_in_any_order_and_as_holes() -> None:
    def answer(command: int, handle: int, offset: int, length: int) -> bytes:
        return (
            data_chunk(handle, offset + 8, b"b" * 4)
            + chunk(2, handle, struct.pack(">QL", offset + 4, 4), done=False)
            + data_chunk(handle, offset, b"a" * 4)
            + chunk(0, handle)
        )

    with server(answer) as path, Client(path) as client:
        buffer = bytearray(b"x" * 12)
        client.read_into(100, memoryview(buffer))
        assert buffer == b"aaaa\0\0\0\0bbbb"


LIES: dict[str, Answer] = {
    "closed": lambda c, h, o, n: b"",
    "magic": lambda c, h, o, n: b"HTTP" + bytes(28),
    "simple": lambda c, h, o, n: struct.pack(">LLQ", SIMPLE, 0, h) + bytes(n),
    "handle": lambda c, h, o, n: chunk(2, h + 1, struct.pack(">QL", o, n)),
    "nothing": lambda c, h, o, n: chunk(0, h),
    "empty and not the end": lambda c, h, o, n: chunk(0, h, done=False) + zeroes(c, h, o, n),
    "short": lambda c, h, o, n: data_chunk(h, o, b"x" * (n - 1), done=True),
    "long": lambda c, h, o, n: data_chunk(h, o, b"x" * (n + 1), done=True),
    "before": lambda c, h, o, n: data_chunk(h, o - 1, b"x" * n, done=True),
    "after": lambda c, h, o, n: data_chunk(h, o + 1, b"x" * n, done=True),
    "far": lambda c, h, o, n: data_chunk(h, (1 << 64) - 1, b"x" * n, done=True),
    "twice": lambda c, h, o, n: data_chunk(h, o, b"x" * (n // 2)) * 2 + chunk(0, h),
    "huge hole": lambda c, h, o, n: chunk(2, h, struct.pack(">QL", o, 0xFFFFFFFF)),
    "no hole": lambda c, h, o, n: chunk(2, h, struct.pack(">QL", o, 0)),
    "huge chunk": lambda c, h, o, n: struct.pack(">LHHQL", STRUCTURED, 1, 1, h, 0xFFFFFFFF),
    "status": lambda c, h, o, n: chunk(5, h, struct.pack(">LLL", 7, n, 0)),
    "unknown": lambda c, h, o, n: chunk(99, h),
    "error of none": lambda c, h, o, n: chunk(1 << 15 | 1, h, struct.pack(">LH", 0, 0)),
    "error too short": lambda c, h, o, n: chunk(1 << 15 | 1, h, b"x"),
    "error text too long": lambda c, h, o, n: chunk(1 << 15 | 1, h, struct.pack(">LH", 5, 9) + b"short"),
    "huge error": lambda c, h, o, n: struct.pack(">LHHQL", STRUCTURED, 1, 1 << 15 | 1, h, 1 << 30),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_read_is_whole_or_an_error(lie: str) -> None:
    with server(LIES[lie]) as path, Client(path, timeout_s=10) as client:
        with pytest.raises(NbdError):
            read(client, 512, 512)
        assert client.closed, "after nonsense nothing that comes can be trusted"


def test_the_servers_words_cannot_drive_a_terminal() -> None:
    text = b"\x1b[2Jbad disk\n"

    def answer(command: int, handle: int, offset: int, length: int) -> bytes:
        return chunk(1 << 15 | 1, handle, struct.pack(">LH", 5, len(text)) + text)

    with server(answer) as path, Client(path) as client:
        with pytest.raises(NbdError, match=r"input/output error \(\?\[2Jbad disk\?\)$"):
            read(client, 0, 512)
        assert not client.closed


def status(*extents: tuple[int, int], context: int = 7) -> Answer:
    def answer(command: int, handle: int, offset: int, length: int) -> bytes:
        data = b"".join(struct.pack(">LL", *extent) for extent in extents)
        return chunk(5, handle, struct.pack(">L", context) + data)

    return answer


def test_the_last_extent_may_reach_beyond_the_end() -> None:
    with server(status((4096, 3), (0xFFFFFFFF, 0))) as path, Client(path) as client:
        assert [tuple(extent) for extent in client.extents()] == [(0, 4096, True), (4096, 61440, False)]


@pytest.mark.parametrize(
    "answer",
    [
        status(),
        status((0, 0)),
        status((4096, 0), (0, 0)),
        status((65536, 0), context=8),
        lambda c, h, o, n: chunk(0, h),
        lambda c, h, o, n: struct.pack(">LLQ", SIMPLE, 0, h),
        lambda c, h, o, n: chunk(5, h, struct.pack(">LL", 7, 65536)),
        lambda c, h, o, n: struct.pack(">LHHQL", STRUCTURED, 1, 5, h, 0xFFFFFFFC),
        lambda c, h, o, n: (
            chunk(5, h, struct.pack(">LLL", 7, n, 0), done=False) + chunk(5, h, struct.pack(">LLL", 7, n, 0))
        ),
    ],
)
def test_wrong_extents_are_refused(answer: Answer) -> None:
    with server(answer) as path, Client(path, timeout_s=10) as client, pytest.raises(NbdError):
        client.extents()


def negotiation(option: int, reply: bytes) -> Callable[[int], bytes]:
    return lambda asked: reply if asked == option else good_negotiation(asked)


@pytest.mark.parametrize(
    "negotiate",
    [
        negotiation(GO, b"x" * 20),
        negotiation(GO, option_reply(GO, 1)),
        negotiation(GO, option_reply(GO, 3, struct.pack(">HQH", 0, 1 << 63, FLAGS)) + option_reply(GO, 1)),
        negotiation(GO, option_reply(GO, 3, b"\0") + option_reply(GO, 1)),
        negotiation(GO, option_reply(GO, 3, struct.pack(">HLLL", 3, 3, 512, 512)) + option_reply(GO, 1)),
        negotiation(GO, option_reply(GO, 3, struct.pack(">HLLL", 3, 1, 1, 1)) + option_reply(GO, 1)),
        negotiation(GO, option_reply(GO, 3, b"\0\x01") * 300),
        negotiation(GO, struct.pack(">QLLL", 0x3E889045565A9, GO, 3, 0xFFFFFFFF)),
        negotiation(GO, option_reply(META_CONTEXT, 1)),
        negotiation(GO, option_reply(GO, (1 << 31) + 5)),
        negotiation(
            META_CONTEXT, option_reply(META_CONTEXT, 4, b"\0\0\0\x01other") + option_reply(META_CONTEXT, 1)
        ),
        negotiation(META_CONTEXT, option_reply(META_CONTEXT, 4, b"\0") + option_reply(META_CONTEXT, 1)),
    ],
)
def test_a_wrong_negotiation_is_an_error(negotiate: Callable[[int], bytes]) -> None:
    with server(zeroes, negotiate=negotiate) as path, pytest.raises(NbdError):
        Client(path, timeout_s=10)


def test_something_else_that_listens_is_told() -> None:
    with (
        server(zeroes, greeting=b"SSH-2.0-OpenSSH_9.2p1\r\n") as path,
        pytest.raises(NbdError, match="not a"),
    ):
        Client(path)


def test_an_old_server_is_served_with_simple_replies() -> None:
    def refuse(option: int) -> bytes:
        return good_negotiation(option) if option == GO else option_reply(option, (1 << 31) + 1)

    def answer(command: int, handle: int, offset: int, length: int) -> bytes:
        return struct.pack(">LLQ", SIMPLE, 0, handle) + (b"s" * length if command == 0 else b"")

    with server(answer, negotiate=refuse) as path, Client(path) as client:
        assert read(client, 0, 1000) == b"s" * 1000
        client.write(0, b"x")
        client.flush()
        assert [tuple(extent) for extent in client.extents()] == [(0, 65536, False)]


def test_a_silent_server_is_left_after_the_timeout() -> None:
    silence = threading.Event()

    def answer(command: int, handle: int, offset: int, length: int) -> bytes:
        silence.wait(60)
        return b""

    with server(answer) as path, Client(path, timeout_s=0.2) as client:
        with pytest.raises(NbdError, match="did not answer") as raised:
            read(client, 0, 512)
        assert raised.value.connection_lost
        silence.set()


piece = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda kind, data, done, off: chunk(kind, 1 + off, data, done=done),
        st.sampled_from([0, 1, 2, 5, 1 << 15 | 1, 1 << 15 | 2, 6]),
        st.one_of(
            st.binary(max_size=40),
            st.builds(lambda o, d: struct.pack(">Q", o) + d, st.integers(500, 530), st.binary(max_size=20)),
            st.builds(lambda o, n: struct.pack(">QL", o, n), st.integers(500, 530), st.integers(0, 20)),
        ),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1]),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(piece, max_size=5))
def test_whatever_a_server_answers_a_read_is_whole_or_a_clear_error(pieces: list[bytes]) -> None:
    answers = iter([b"".join(pieces)])
    with server(lambda c, h, o, n: next(answers, b"")) as path, Client(path, timeout_s=5) as client:
        with client._wire.patience(0.05):
            try:
                read(client, 512, 12)
            except PitrError:
                return
        assert client.closed is False


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([GO, META_CONTEXT, STRUCTURED_REPLY]),
    st.binary(max_size=60),
    st.integers(0, 5),
    st.booleans(),
)
def test_whatever_a_server_negotiates_is_an_export_or_a_clear_error(
    option: int, data: bytes, kind: int, acknowledged: bool
) -> None:
    reply = option_reply(option, kind, data) + (option_reply(option, 1) if acknowledged else b"")
    with server(zeroes, negotiate=negotiation(option, reply)) as path:
        try:
            Client(path, timeout_s=0.05).close()
        except PitrError:
            return
