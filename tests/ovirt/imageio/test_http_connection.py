# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP as servers speak it, and as they should not; over a socket, and over real TLS in pieces of every size."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import BadStatusLine, HTTPException, IncompleteRead, LineTooLong, RemoteDisconnected

import pytest

from pitr.lab.host.pki import Pki, make_pki
from pitr.ovirt.imageio.http import HttpConnection, PlainSocket, TlsSocket
from pitr.system.cancellation import Cancellation, cancelled_by

CONTENT = random.Random(3).randbytes(3 << 20)


@contextmanager
def answering(answer: bytes) -> Iterator[HttpConnection]:
    """A connection whose server says `answer` and closes."""
    near, far = socket.socketpair()
    far.sendall(answer)
    far.shutdown(socket.SHUT_WR)
    near.settimeout(10)
    with far, HttpConnection(PlainSocket(near), "localhost") as connection:
        yield connection


def whole(answer: bytes, limit: int = 1000) -> tuple[int, bytes]:
    with answering(answer) as connection:
        connection.send("GET", "/images/x")
        received = connection.receive()
        return received.status, connection.body(received, limit)


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"content-length:5\r\nX: y\r\n\r\nhello and more",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: z\r\n\r\n",
        b"\r\nhello",
    ],
)
def test_bodies_of_every_framing_are_received(body: bytes) -> None:
    assert whole(b"HTTP/1.1 200 OK\r\n" + body) == (200, b"hello")


def test_what_a_server_says_before_its_answer_is_passed_over() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    assert whole(answer) == (403, b"no")


WRONG: dict[str, tuple[bytes, type[Exception]]] = {
    "nothing": (b"", RemoteDisconnected),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", RemoteDisconnected),
    "no status": (b"hello\r\n\r\n", BadStatusLine),
    "another protocol": (b"HTTP/2 200 OK\r\n\r\n", BadStatusLine),
    "an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, LineTooLong),
    "a header without a name": (b"HTTP/1.1 200 OK\r\nhello\r\n\r\n", HTTPException),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi", HTTPException),
    "a negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", HTTPException),
    "a length with a sign": (b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", HTTPException),
    "a huge length": (b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\nx", HTTPException),
    "a longer body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, HTTPException),
    "a body without an end": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, HTTPException),
    "a short body": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", IncompleteRead),
    "a chunk without a length": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        HTTPException,
    ),
    "a huge chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", HTTPException),
    "a chunk too long": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", HTTPException),
    "chunks without an end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        IncompleteRead,
    ),
    "only interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, HTTPException),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_answer_is_an_error(what: str) -> None:
    answer, error = WRONG[what]
    with pytest.raises(error):
        whole(answer)


def test_answers_to_requests_that_were_sent_ahead_come_one_after_the_other() -> None:
    parts = [CONTENT[at : at + 70000] for at in range(0, 700000, 70000)]
    answers = [b"HTTP/1.1 206 Partial\r\nContent-Length: %d\r\n\r\n%s" % (len(part), part) for part in parts]
    near, far = socket.socketpair()
    sender = threading.Thread(target=far.sendall, args=[b"".join(answers)])
    sender.start()
    with far, HttpConnection(PlainSocket(near), "localhost") as connection:
        for part in parts:
            received = connection.receive()
            assert received.length == len(part)
            target = bytearray(len(part))
            connection.receive_into(memoryview(target)[:10])
            connection.receive_into(memoryview(target)[10:])
            assert target == part
            assert not connection.ended
        sender.join()


@pytest.mark.parametrize(
    ("head", "ended"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
    ],
)
def test_the_head_shows_whether_the_connection_stays_open(head: bytes, ended: bool) -> None:
    with answering(head) as connection:
        assert not connection.goes_on
        connection.receive()
        assert (connection.ended, connection.goes_on) == (ended, not ended)


# TLS


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("tls") / "pki")


@contextmanager
def tls_server(pki: Pki, work: Callable[[ssl.SSLSocket], object]) -> Iterator[socket.socket]:
    """Run a real TLS server for one connection and yield a socket that is connected to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate, pki.private_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            one, _ = listener.accept()
            try:
                with context.wrap_socket(one, server_side=True) as secure:
                    work(secure)
            except OSError:
                pass  # the client has gone, as some tests want

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield socket.create_connection(listener.getsockname(), 10)
        finally:
            server.join()


def _trusting(pki: Pki) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=pki.cafile)


@pytest.mark.parametrize("record", [1, 100, 16384, len(CONTENT)])
def test_tls_returns_all_bytes_with_any_record_size(pki: Pki, record: int) -> None:
    content = CONTENT[: min(len(CONTENT), record * 2000)]

    def work(secure: ssl.SSLSocket) -> None:
        for at in range(0, len(content), record):
            secure.sendall(content[at : at + record])
        secure.unwrap()

    with (
        tls_server(pki, work) as connected,
        HttpConnection(TlsSocket(connected, _trusting(pki), "localhost"), "localhost") as connection,
    ):
        target = bytearray(len(content))
        connection.receive_into(memoryview(target))
        assert target == content
        with pytest.raises(IncompleteRead):
            connection.receive_into(memoryview(target))


def test_tls_sends_a_large_body_whole(pki: Pki) -> None:
    come = bytearray()

    def work(secure: ssl.SSLSocket) -> None:
        while len(come.partition(b"\r\n\r\n")[2]) < len(CONTENT):
            come.extend(secure.recv(1 << 16))
        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with (
        tls_server(pki, work) as connected,
        HttpConnection(TlsSocket(connected, _trusting(pki), "localhost"), "localhost") as connection,
    ):
        connection.send("PUT", "/images/x", {"Content-Range": "bytes 0-1/*"}, memoryview(CONTENT))
        assert connection.receive().status == 200
    head, _, body = bytes(come).partition(b"\r\n\r\n")
    assert body == CONTENT
    assert f"Content-Length: {len(CONTENT)}".encode() in head


def test_a_connection_that_breaks_in_the_middle_of_a_record_is_a_short_answer(pki: Pki) -> None:
    def work(secure: ssl.SSLSocket) -> None:
        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        secure.shutdown(socket.SHUT_RDWR)

    with (
        tls_server(pki, work) as connected,
        HttpConnection(TlsSocket(connected, _trusting(pki), "localhost"), "localhost") as connection,
    ):
        answer = connection.receive()
        with pytest.raises(IncompleteRead):
            connection.body(answer, 1000)


def test_a_server_that_is_not_trusted_gets_nothing(pki: Pki) -> None:
    with (
        tls_server(pki, lambda secure: None) as connected,
        connected,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        TlsSocket(connected, ssl.create_default_context(), "localhost")


@pytest.mark.parametrize("wire", ["plain", "TLS", "TLS handshake"])
def test_cancelled_work_does_not_wait_for_an_answer(pki: Pki, wire: str) -> None:
    cancellation = Cancellation()
    silent = threading.Event()
    failures: list[Exception] = []

    def ask(connected: socket.socket) -> None:
        try:
            with cancelled_by(cancellation):
                way = (
                    PlainSocket(connected)
                    if wire == "plain"
                    else TlsSocket(connected, _trusting(pki), "localhost")
                )
                with HttpConnection(way, "localhost") as connection:
                    connection.send("GET", "/images/x")
                    connection.receive()
        except (OSError, HTTPException) as error:
            failures.append(error)

    with ExitStack() as stack:
        if wire == "TLS":
            near = stack.enter_context(tls_server(pki, lambda secure: silent.wait(20)))
        else:
            near, far = socket.socketpair()
            stack.enter_context(far)
        near.settimeout(60)
        thread = threading.Thread(target=ask, args=(near,))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        cancellation.cancel()
        thread.join(10)
        silent.set()
        assert not thread.is_alive()
    assert len(failures) == 1
    assert near.fileno() == -1


def test_the_timeout_limits_answers_and_requests() -> None:
    near, far = socket.socketpair()
    near.settimeout(0.2)
    with far, HttpConnection(PlainSocket(near), "localhost") as connection:
        with pytest.raises(TimeoutError):
            connection.receive()
        with pytest.raises(TimeoutError):
            connection.send("PUT", "/images/x", {}, bytes(8 << 20))


def test_the_timeout_limits_answers_and_requests_over_tls(pki: Pki) -> None:
    silent = threading.Event()

    def failure(work: Callable[[HttpConnection], object]) -> None:
        with tls_server(pki, lambda secure: silent.wait(20)) as connected:
            way = TlsSocket(connected, _trusting(pki), "localhost")
            way.set_timeout(0.2)
            try:
                with HttpConnection(way, "localhost") as connection, pytest.raises(TimeoutError):
                    work(connection)
            finally:
                silent.set()

    failure(lambda connection: connection.receive())
    silent.clear()
    failure(lambda connection: connection.send("PUT", "/images/x", {}, bytes(16 << 20)))


def test_slow_data_arrives_completely() -> None:
    """A timeout after a part of the data has arrived is not a failure."""
    near, far = socket.socketpair()
    near.settimeout(0.3)

    def trickle() -> None:
        for at in range(0, 100, 10):
            time.sleep(0.1)
            far.sendall(CONTENT[at : at + 10])

    thread = threading.Thread(target=trickle)
    with far, HttpConnection(PlainSocket(near), "localhost") as connection:
        thread.start()
        body = bytearray(100)
        connection.receive_into(memoryview(body))
        thread.join()
    assert body == CONTENT[:100]
