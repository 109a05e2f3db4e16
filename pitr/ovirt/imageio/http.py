# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTP/1.1 connection for many small requests, or for much data.

The standard library needs 0.2 ms of CPU time for an exchange. This connection needs a tenth, and receives data directly
into the caller's buffer. It can send requests before earlier ones are answered.

It does not trust the server: it checks lengths and limits an answer's head to 64 KiB. It raises OSError (also for
timeouts and TLS) and HTTPException, like http.client; after an error you cannot use the connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPException, IncompleteRead, LineTooLong, RemoteDisconnected
from typing import Final, Protocol, cast

from pitr.system.cancellation import current_cancellation
from pitr.system.closing import Closes

_HEAD_LIMIT: Final = 64 << 10
#: The most bytes to encrypt at once.
_TLS_SENT: Final = 256 << 10
_CHUNK_LINE_LIMIT: Final = 1 << 10
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?")
_MAX_INTERIM: Final = 16


class HttpSocket(Protocol):
    """A connected socket, plain or with TLS."""

    def receive_into(self, target: memoryview) -> int:
        """Receive some bytes into `target` and return their number, 0 at the end."""

    def fill(self, target: memoryview) -> int:
        """Receive as many bytes as `target` has, if possible, and return their number, 0 at the end."""

    def send(self, head: bytes, body: bytes | memoryview = b"") -> None: ...

    def set_timeout(self, timeout_s: float) -> None:
        """Limit each wait for the server, in seconds."""

    def close(self) -> None: ...


class _ConnectedSocket:
    """A connected socket with a timeout; `close` closes the socket.

    When the work of a thread is cancelled, its socket is shut down, which ends its waits.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._cancellation = current_cancellation()
        if self._cancellation is not None:
            self._cancellation.add(self._break)

    def close(self) -> None:
        if self._cancellation is not None:
            self._cancellation.discard(self._break)
        self._socket.close()

    def _break(self) -> None:
        with contextlib.suppress(OSError):
            # The method of a TLS socket also ends TLS, which another thread is using.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class PlainSocket(_ConnectedSocket):
    """A connected socket; `close` closes it.

    The kernel keeps the timeout. With Python's own timeout, each call is two system calls and moves at most the
    socket's buffer.
    """

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        limit_s = connected.gettimeout()
        if limit_s:
            self.set_timeout(limit_s)

    def set_timeout(self, timeout_s: float) -> None:
        self._socket.settimeout(None)
        seconds, microseconds = divmod(max(round(timeout_s * 1e6), 1), 1_000_000)
        limit = struct.pack("ll", seconds, microseconds)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)

    def receive_into(self, target: memoryview) -> int:
        return self._receive(target)

    def fill(self, target: memoryview) -> int:
        return self._receive(target, socket.MSG_WAITALL)

    def send(self, head: bytes, body: bytes | memoryview = b"") -> None:
        self._send(head)
        if len(body):
            self._send(body)

    def _receive(self, target: memoryview, flags: int = 0) -> int:
        try:
            return self._socket.recv_into(target, 0, flags)
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError:
            raise TimeoutError("timed out") from None


class TlsSocket(_ConnectedSocket):
    """TLS on the socket `connected`, which it takes over; `close` closes it. Raises OSError when the handshake fails.

    OpenSSL reads and writes the socket itself, without Python's lock. Memory buffers between them would take the same
    CPU time, but hold the lock three times as long.
    """

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, host: str) -> None:
        secure = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        super().__init__(secure)
        self._tls = secure
        try:
            secure.do_handshake()
        except BaseException:
            self.close()
            raise

    def set_timeout(self, timeout_s: float) -> None:
        # With the kernel's timeout, Python would try again for ever.
        self._tls.settimeout(timeout_s)

    def receive_into(self, target: memoryview) -> int:
        # At most one record, and 0 at the end. The type is that without a buffer.
        return cast(int, self._tls.read(len(target), target))

    def fill(self, target: memoryview) -> int:
        count = 0
        # For each record of 16 KiB.
        while received := self._tls.read(len(target) - count, target[count:]):
            count += cast(int, received)
            if count == len(target):
                break
        return count

    def send(self, head: bytes, body: bytes | memoryview = b"") -> None:
        self._tls.sendall(head)
        # The timeout is for each piece.
        view = memoryview(body)
        for at in range(0, len(view), _TLS_SENT):
            self._tls.sendall(view[at : at + _TLS_SENT])


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer. `length` is the length of the body in bytes, None if the head does not have it.

    `last`: the server closes the connection after this answer. The names of `headers` are in lower case.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    chunked: bool
    last: bool


class HttpConnection(Closes):
    """A connection that owns the socket `connected`. `host` is the server's name and port for the Host header.

    For each `send`, in order, call `receive` once, then receive the whole body with `receive_into` or `body`.
    """

    def __init__(self, connected: HttpSocket, host: str) -> None:
        self._socket = connected
        self._host = host
        self._held = bytearray(_HEAD_LIMIT)
        self._view = memoryview(self._held)
        self._begin = self._end = 0
        self.ended = False
        """True after an answer with which the server closes the connection."""
        self.goes_on = False
        """True after an answer with which the server keeps the connection open."""

    def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | memoryview = b""
    ) -> None:
        """Send a request. `path` and `headers` must be printable and without line ends."""
        length = {"Content-Length": str(len(body))} if len(body) else {}
        self._socket.send(self._head_of(method, path, {**length, **(headers or {})}), body)

    def send_gets(self, path: str, headers: Sequence[Mapping[str, str]]) -> None:
        """Send a GET request with each of `headers`, all at once."""
        self._socket.send(b"".join(self._head_of("GET", path, fields) for fields in headers))

    def receive(self) -> ResponseHead:
        """Receive the head of the next answer."""
        for _ in range(_MAX_INTERIM):
            answer = _parsed(self._head())
            if answer.status >= 200:
                self.ended = self.ended or answer.last
                self.goes_on = not self.ended
                return answer
        raise HTTPException("the server only sends interim answers")

    def receive_into(self, target: memoryview) -> None:
        """Fill `target` with the next bytes of the body. Raises IncompleteRead at the end of the connection."""
        held = min(len(target), self._end - self._begin)
        if held:
            target[:held] = self._view[self._begin : self._begin + held]
            self._begin += held
            target = target[held:]
        while target:
            count = self._socket.fill(target)
            if count == 0:
                raise IncompleteRead(b"", len(target))
            target = target[count:]

    def body(self, answer: ResponseHead, limit: int) -> bytes:
        """Receive the whole body, which must not be longer than `limit` bytes."""
        if answer.chunked:
            return self._chunks(limit)
        if answer.length is None:
            return self._rest(limit)
        return self._exactly(answer.length, limit)

    def set_timeout(self, timeout_s: float) -> None:
        self._socket.set_timeout(timeout_s)

    def close(self) -> None:
        self._socket.close()

    def _head_of(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _head(self) -> bytes:
        return self._until(b"\r\n\r\n", _HEAD_LIMIT, RemoteDisconnected("no answer"))

    def _until(self, mark: bytes, limit: int, at_end: Exception) -> bytes:
        """Receive up to `mark` and return the bytes before it."""
        while (position := self._held.find(mark, self._begin, self._end)) < 0:
            if self._end - self._begin >= limit:
                raise LineTooLong("a head")
            if self._end == len(self._held):
                count = self._end - self._begin
                self._held[:count] = self._held[self._begin : self._end]
                self._begin, self._end = 0, count
            count = self._socket.receive_into(self._view[self._end :])
            if count == 0:
                raise at_end
            self._end += count
        text = bytes(self._view[self._begin : position])
        self._begin = position + len(mark)
        if self._begin == self._end:
            self._begin = self._end = 0
        return text

    def _exactly(self, length: int, limit: int) -> bytes:
        if length > limit:
            raise HTTPException(f"an answer of {length} bytes")
        body = bytearray(length)
        self.receive_into(memoryview(body))
        return bytes(body)

    def _rest(self, limit: int) -> bytes:
        body = bytearray(self._view[self._begin : self._end])
        self._begin = self._end = 0
        while len(body) <= limit:
            count = self._socket.receive_into(self._view)
            if count == 0:
                return bytes(body)
            body += self._view[:count]
        raise HTTPException(f"an answer of more than {limit} bytes")

    def _chunks(self, limit: int) -> bytes:
        body = bytearray()
        cut_off = IncompleteRead(b"")
        while True:
            line = self._until(b"\r\n", _CHUNK_LINE_LIMIT, cut_off).partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", line):
                raise HTTPException("a chunk without a length")
            length = int(line, 16)
            if length == 0:
                while self._until(b"\r\n", _HEAD_LIMIT, cut_off):
                    pass
                return bytes(body)
            body += self._exactly(length, limit - len(body))
            if self._until(b"\r\n", _CHUNK_LINE_LIMIT, cut_off):
                raise HTTPException("a chunk of the wrong length")


def _parsed(head: bytes) -> ResponseHead:
    first, *lines = head.split(b"\r\n")
    matched = _STATUS_LINE.fullmatch(first)
    if matched is None:
        raise BadStatusLine(repr(first[:100]))
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise HTTPException("an invalid header")
        name, value = name.lower(), value.strip()
        if name == "content-length" and headers.get(name, value) != value:
            raise HTTPException("an answer with two lengths")
        headers[name] = value
    status = int(matched[2])
    connection = headers.get("connection", "").lower()
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    length = None if chunked else _length(headers)
    if status < 200 or status in {204, 304}:
        length, chunked = 0, False
    last = "close" in connection or (matched[1] == b"0" and "keep-alive" not in connection)
    return ResponseHead(status, headers, length, chunked, last or (length is None and not chunked))


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise HTTPException("an invalid length")
    return int(text)
