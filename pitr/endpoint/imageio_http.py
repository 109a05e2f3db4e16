# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to ovirt-imageio for which the client library does not serve.

It waits 60 s for any answer (10 s on the unix socket): on large or slow disks listing the extents, flushing and
zeroing take longer; here they wait for half an hour, on a connection of their own. And it reads into a buffer of
its own: here data is received where it is wanted, which took 0.29 instead of 0.42 CPU seconds for a GiB over the
unix socket, 1.10 instead of 1.27 over TLS.
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import orjson

from pitr.endpoint.closing import Closes
from pitr.endpoint.coalesce import Span
from pitr.endpoint.imageio_errors import StatusError, is_expected, is_transient, translated
from pitr.endpoint.imageio_extents import Context
from pitr.errors import ImageioError
from pitr.retry import is_abandoned, retrying

T = TypeVar("T")

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 1800.0
#: Data that does not come for this long is asked for again.
READ_TIMEOUT_S: Final = 60.0
#: 14 million extents; a body that is larger is no list of extents of a disk.
MAX_BODY: Final = 1 << 30
#: More connections to one disk than this make nothing faster, whatever a server offers.
MAX_CONNECTIONS: Final = 32

# A host that vanished is noticed in two minutes, although an answer may take half an hour.
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))


@dataclass(frozen=True, slots=True)
class ImageioAddress:
    """Where a transfer's data is, as the engine says. The URLs hold the ticket, a secret: never shown.

    `proxy_url` is used when the host of `transfer_url` cannot be reached; `secure=False` trusts any
    certificate. Raises ImageioError when a URL is not one.
    """

    transfer_url: str = field(repr=False)
    proxy_url: str | None = field(default=None, repr=False)
    cafile: str | Path | None = None
    secure: bool = True

    def __post_init__(self) -> None:
        for url in self.urls:
            try:
                parts = urlsplit(url)
                known = (
                    parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and parts.path
                )
            except ValueError:
                known = False
            if not known:
                raise ImageioError("the engine gave a transfer URL that is none")

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.transfer_url,) if self.proxy_url is None else (self.transfer_url, self.proxy_url)

    @property
    def host(self) -> str:
        """The host and port, for messages."""
        return urlsplit(self.transfer_url).netloc.rpartition("@")[2]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown: the ticket."""
        return tuple({urlsplit(url).path.rpartition("/")[2] for url in self.urls} - {""})


@dataclass(frozen=True, slots=True)
class Options:
    """How many connections of each kind the server serves at once, and its socket for clients on its host."""

    max_readers: int = 1
    max_writers: int = 1
    unix_socket: str | None = None


class ImageioSession(Closes):
    """One connection for requests that may take up to `timeout_s` seconds. Raises OSError, HTTPException and
    StatusError; `trying` turns them into ImageioError."""

    def __init__(self, address: ImageioAddress, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._connection, self._path = _connected(address)
        self._connection.sock.settimeout(timeout_s)
        # For the case that the server closes after an answer: http.client connects again by itself.
        self._connection.timeout = timeout_s
        self._gap = memoryview(b"")

    def go_local(self) -> bool:
        """Go on over the server's unix socket where this machine is its host: half of the CPU time of TLS.

        Tells whether it is.
        """
        name = self.options().unix_socket
        here, there = self._connection.sock.getsockname(), self._connection.sock.getpeername()
        if name is None or here[0] != there[0]:
            return False
        connection = _UnixConnection(name, self._connection.timeout)
        try:
            connection.connect()
        except OSError:
            # A container shares the address, but not the file system.
            return False
        self._connection.close()
        self._connection = connection
        _log.debug("this is the disk's host: data goes through the unix socket %s", name)
        return True

    def read(self, span: Span, target: memoryview) -> None:
        """Read the pieces of `span` one after the other into `target`, which is as long as all of them."""
        last = span.start + span.length - 1
        response = self._response("GET", self._path, headers={"Range": f"bytes={span.start}-{last}"})
        if response.status != http.client.PARTIAL_CONTENT:
            raise StatusError(response.status, self._body(response)[:1000].decode("utf-8", "replace"))
        if response.length != span.length:
            raise http.client.HTTPException(f"{response.length} bytes instead of {span.length}")
        at, position = 0, span.start
        for offset, length in span.pieces:
            if offset - position > len(self._gap):
                self._gap = memoryview(bytearray(offset - position))
            _receive(response, self._gap[: offset - position])
            _receive(response, target[at : at + length])
            at += length
            position = offset + length

    def options(self) -> Options:
        response = self._response("OPTIONS", self._path)
        body = self._body(response)
        # Old daemons and proxies know no OPTIONS: one connection always works.
        if response.status in {204, 405}:
            return Options()
        _check(response, body)
        try:
            values = orjson.loads(body)
        except ValueError:
            values = None
        return _options(values)

    def extents(self, context: Context) -> bytes:
        """Return the JSON list of the disk's extents as the server sent it."""
        response = self._response("GET", f"{self._path}/extents?context={context}")
        body = self._body(response)
        _check(response, body)
        return body

    def readable_size(self) -> int:
        """Return how many bytes of the disk the ticket lets clients read."""
        response = self._response("GET", self._path, headers={"Range": "bytes=0-0"})
        body = self._body(response)
        if response.status != http.client.PARTIAL_CONTENT:
            raise StatusError(response.status, body[:1000].decode("utf-8", "replace"))
        said = (response.getheader("Content-Range") or "").rpartition("/")[2]
        if not said.isdecimal():
            raise http.client.HTTPException("an answer without the size of the disk")
        return int(said)

    def checksum(self, algorithm: str, block_size: int) -> bytes:
        """Return the JSON of the daemon's checksum of all that the disk holds now (pitr.jobs.checksum)."""
        response = self._response(
            "GET", f"{self._path}/checksum?algorithm={algorithm}&block_size={block_size}"
        )
        body = self._body(response)
        _check(response, body)
        return body

    def flush(self) -> None:
        self._patch({"op": "flush"})

    def zero(self, offset: int, length: int) -> None:
        """Zero a range, without making that durable."""
        self._patch({"op": "zero", "offset": offset, "size": length, "flush": False})

    def close(self) -> None:
        self._connection.close()

    def _patch(self, operation: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        response = self._response("PATCH", self._path, orjson.dumps(operation), headers)
        _check(response, self._body(response))

    def _response(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        self._connection.request(method, path, body, headers or {})
        return self._connection.getresponse()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        length = response.length
        if length is not None and length > MAX_BODY:
            raise http.client.HTTPException(f"an answer of {length} bytes")
        body = response.read(MAX_BODY + 1)
        if length is not None and len(body) < length:
            raise http.client.IncompleteRead(b"", length - len(body))
        if len(body) > MAX_BODY:
            raise http.client.HTTPException(f"an answer of more than {MAX_BODY} bytes")
        return body


def ask(
    address: ImageioAddress,
    what: str,
    question: Callable[[ImageioSession], T],
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Ask `question` on a connection of its own, again after transient failures; raises ImageioError."""

    def attempt() -> T:
        with ImageioSession(address, timeout_s) as session:
            return question(session)

    return trying(address, what, attempt, sleep=sleep)


def trying(
    address: ImageioAddress, what: str, attempt: Callable[[], T], *, sleep: Callable[[float], None]
) -> T:
    """Call `attempt`, again after transient failures; raises ImageioError with `what` in its message."""
    try:
        return retrying(
            attempt, transient=lambda error: is_transient(error) and not is_abandoned(), sleep=sleep
        )
    except Exception as error:
        if not is_expected(error):
            raise
        # The server's words hold the ticket; a traceback must not show them.
        raise translated(error, address.host, what, address.secrets) from None


def _connected(address: ImageioAddress) -> tuple[http.client.HTTPConnection, str]:
    *others, last = address.urls
    for url in others:
        try:
            return _connected_to(urlsplit(url), address)
        except OSError:
            # The engine names the proxy for hosts that cannot be reached from everywhere.
            _log.info("%s cannot be reached from here: trying the engine's proxy", urlsplit(url).netloc)
            continue
    return _connected_to(urlsplit(last), address)


def _connected_to(url: SplitResult, address: ImageioAddress) -> tuple[http.client.HTTPConnection, str]:
    host = url.hostname or ""
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context(cafile=address.cafile)
        if not address.secure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, url.port, timeout=CONNECT_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, url.port, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        connection.close()
        raise
    return connection, url.path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, name: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._name = name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._name)


def _receive(response: http.client.HTTPResponse, target: memoryview) -> None:
    while target:
        count = response.readinto(target)
        if count == 0:
            raise http.client.IncompleteRead(b"", len(target))
        target = target[count:]


def _check(response: http.client.HTTPResponse, body: bytes) -> None:
    if response.status != http.client.OK:
        raise StatusError(response.status, body[:1000].decode("utf-8", "replace"))


def _options(values: Any) -> Options:
    if not isinstance(values, dict):
        return Options()
    counts = [values.get(name, 1) for name in ("max_readers", "max_writers")]
    readers, writers = (min(max(c, 1), MAX_CONNECTIONS) if type(c) is int else 1 for c in counts)
    name = values.get("unix_socket")
    return Options(readers, writers, name if isinstance(name, str) and name else None)
