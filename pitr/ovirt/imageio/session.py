# SPDX-License-Identifier: GPL-2.0-or-later
"""Send requests to ovirt-imageio.

pitr does not use imageio's client library. It waits only 60 s for an answer (10 s on the unix socket), but listing
extents, flushing and zeroing take longer on large or slow disks. It also receives into its own buffer and needs half
a millisecond of CPU time for each request. pitr only needs a small part of the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final, NoReturn, TypeVar

import orjson

from pitr.copier.requests import CombinedRequest
from pitr.ovirt.imageio.address import Connected, ImageioAddress, LocalSocket, connected
from pitr.ovirt.imageio.errors import StatusError, is_expected, is_transient, translated
from pitr.ovirt.imageio.extents import Context
from pitr.ovirt.imageio.http import HttpConnection, ResponseHead
from pitr.system.cancellation import is_cancelled, pause
from pitr.system.closing import Closes
from pitr.system.retry import retrying

T = TypeVar("T")

__all__ = ["ImageioAddress", "ImageioSession", "LocalSocket", "Options", "ask", "trying"]

ANSWER_TIMEOUT_S: Final = 1800.0
#: pitr requests data again when it has not arrived after this time.
READ_TIMEOUT_S: Final = 60.0
#: Room for 14 million extents; a longer body is not a list of extents.
MAX_BODY: Final = 1 << 30
#: More connections to one disk are not faster, even if a server offers more.
MAX_CONNECTIONS: Final = 32

#: The most unanswered requests on a connection.
REQUESTS_AHEAD: Final = 16
_MAX_REFUSAL: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """The server's limits of concurrent connections, and its unix socket for clients on the same host."""

    max_readers: int = 1
    max_writers: int = 1
    unix_socket: str | None = None


class ImageioSession(Closes):
    """One connection to ovirt-imageio. Each wait for the server takes at most `timeout_s` seconds.

    Raises OSError, HTTPException and StatusError; `trying` turns them into ImageioError.
    """

    def __init__(self, address: ImageioAddress | LocalSocket, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._connect: Callable[[], Connected] = lambda: connected(address, timeout_s)
        self._connected = self._connect()
        self._gap = memoryview(b"")
        self.requests_ahead = REQUESTS_AHEAD

    def local_socket(self, options: Options) -> LocalSocket | None:
        """Return the server's unix socket according to its `options` if this machine is its host."""
        if options.unix_socket is None or not self._connected.same_machine:
            return None
        return LocalSocket(options.unix_socket, self._connected.path)

    def is_local(self) -> bool:
        """Return whether this machine is the server's host, and its unix socket can be used.

        The unix socket needs half of the CPU time of TLS.
        """
        local = self.local_socket(self.options())
        if local is None:
            return False
        try:
            with ImageioSession(local):
                return True
        except OSError:
            # A container has the same IP address, but another file system.
            return False

    def read(self, spans: Sequence[CombinedRequest], target: memoryview) -> Iterator[None]:
        """Read the pieces of all `spans` in order into `target`, which has the total length of the pieces.

        Yields after each complete span. It sends a few requests ahead, so that the server need not wait, but only if
        the server keeps connections open. Otherwise the end of an answer could be lost when it closes one.
        """
        ready = self._ready()
        asked = at = 0
        for number, span in enumerate(spans):
            ready = self._ready() if asked == number else ready
            ahead = self.requests_ahead if ready.goes_on else 1
            if asked < len(spans) and asked <= number + ahead // 2:
                more = spans[asked : number + ahead]
                ready.send_gets(self._connected.path, [{"Range": _bytes_of(span)} for span in more])
                asked += len(more)
            answer = ready.receive()
            if answer.status != HTTPStatus.PARTIAL_CONTENT:
                _refused(answer, ready)
            if answer.length != span.length:
                raise HTTPException(f"{answer.length} bytes instead of {span.length}")
            position = span.start
            for offset, length in span.pieces:
                if offset - position > len(self._gap):
                    self._gap = memoryview(bytearray(offset - position))
                ready.receive_into(self._gap[: offset - position])
                ready.receive_into(target[at : at + length])
                at += length
                position = offset + length
            yield

    def write(self, offset: int, data: memoryview) -> None:
        """Write `data` at `offset` without flushing it."""
        last = offset + len(data) - 1
        self._exchange("PUT", "?flush=n", {"Content-Range": f"bytes {offset}-{last}/*"}, data)

    def options(self) -> Options:
        # Old daemons and proxies do not support OPTIONS: one connection always works.
        answer, body = self._exchange("OPTIONS", expected={200, 204, 405})
        if answer.status != HTTPStatus.OK:
            return Options()
        try:
            values = orjson.loads(body)
        except ValueError:
            values = None
        return _options(values)

    def extents(self, context: Context) -> bytes:
        """Return the server's JSON list of the disk's extents."""
        return self._exchange("GET", f"/extents?context={context}")[1]

    def readable_size(self) -> int:
        """Return the size in bytes of the part of the disk that the ticket lets clients read."""
        answer, _ = self._exchange("GET", "", {"Range": "bytes=0-0"}, expected={HTTPStatus.PARTIAL_CONTENT})
        size = answer.headers.get("content-range", "").rpartition("/")[2]
        if not size.isdecimal():
            raise HTTPException("an answer without the size of the disk")
        return int(size)

    def checksum(self, algorithm: str, block_size: int) -> bytes:
        """Return the daemon's checksum of the whole disk as JSON (pitr.ovirt.imageio.checksum)."""
        return self._exchange("GET", f"/checksum?algorithm={algorithm}&block_size={block_size}")[1]

    def flush(self) -> None:
        self._patch({"op": "flush"})

    def zero(self, offset: int, length: int) -> None:
        """Zero a range without flushing it."""
        self._patch({"op": "zero", "offset": offset, "size": length, "flush": False})

    def close(self) -> None:
        self._connected.connection.close()

    def _patch(self, operation: dict[str, Any]) -> None:
        self._exchange("PATCH", "", {"Content-Type": "application/json"}, orjson.dumps(operation))

    def _exchange(
        self,
        method: str,
        more: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        *,
        expected: frozenset[int] | set[int] = frozenset({HTTPStatus.OK}),
    ) -> tuple[ResponseHead, bytes]:
        """Send one request; `more` follows the transfer's path. Raises StatusError for an unexpected status."""
        ready = self._ready()
        try:
            ready.send(method, self._connected.path + more, headers, body)
        except ConnectionError as error:
            # A server can refuse a request before it has received the whole body.
            try:
                answer = ready.receive()
            except (OSError, HTTPException):
                raise error from None
        else:
            answer = ready.receive()
        if answer.status not in expected:
            _refused(answer, ready)
        return answer, ready.body(answer, MAX_BODY)

    def _ready(self) -> HttpConnection:
        """Return the connection, a new one if the server closed it after its last answer."""
        if self._connected.connection.ended:
            self._connected.connection.close()
            self._connected = self._connect()
        return self._connected.connection


def ask(
    address: ImageioAddress,
    what: str,
    question: Callable[[ImageioSession], T],
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    sleep: Callable[[float], None] = pause,
) -> T:
    """Ask `question` on a new connection; retry after transient failures. Raises ImageioError."""

    def attempt() -> T:
        with ImageioSession(address, timeout_s) as session:
            return question(session)

    return trying(address, what, attempt, sleep=sleep)


def trying(
    address: ImageioAddress, what: str, attempt: Callable[[], T], *, sleep: Callable[[float], None]
) -> T:
    """Call `attempt`; retry after transient failures. Raises ImageioError with `what` in its message."""
    try:
        return retrying(
            attempt, transient=lambda error: is_transient(error) and not is_cancelled(), sleep=sleep
        )
    except Exception as error:
        if not is_expected(error):
            raise
        # The server's text contains the ticket, so a traceback must not show it.
        raise translated(error, address.host, what, address.secrets) from None


def _bytes_of(span: CombinedRequest) -> str:
    return f"bytes={span.start}-{span.start + span.length - 1}"


def _refused(answer: ResponseHead, connection: HttpConnection) -> NoReturn:
    text = connection.body(answer, _MAX_REFUSAL)[:1000]
    raise StatusError(answer.status, text.decode("utf-8", "replace"))


def _options(values: Any) -> Options:
    if not isinstance(values, dict):
        return Options()
    counts = [values.get(name, 1) for name in ("max_readers", "max_writers")]
    readers, writers = (min(max(c, 1), MAX_CONNECTIONS) if type(c) is int else 1 for c in counts)
    name = values.get("unix_socket")
    return Options(readers, writers, name if isinstance(name, str) and name else None)
