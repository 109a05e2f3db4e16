# SPDX-License-Identifier: GPL-2.0-or-later
"""S3 servers with bad habits: one overwrites silently, as some servers for tests do, another refuses some requests."""

from __future__ import annotations

import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


class OverwritingServer(ThreadingHTTPServer):
    """Holds `objects` by path."""

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: OverwritingServer
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.server.objects[self._name] = self.rfile.read(int(self.headers["content-length"]))
        self._answer(200, headers={"etag": '"1"'})

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._name, None)
        self._answer(204)

    def do_POST(self) -> None:
        """Delete several objects."""
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        for key in re.findall(r"<Key>([^<]*)</Key>", body):
            self.server.objects.pop(f"{self._name.rstrip('/')}/{key}", None)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            return
        data = self.server.objects.get(self._name)
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
        else:
            self._answer(200, data, {"etag": '"1"', "last-modified": "Sat, 28 Nov 2026 00:00:00 GMT"})

    @property
    def _name(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class RefusingProxy(ThreadingHTTPServer):
    """Passes requests on to the server `behind`, except those whose path contains `refused`: it has no rights for them.

    Use it as a context manager.
    """

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = urlsplit(behind)
        self.refused: str | None = None
        self.address = f"http://127.0.0.1:{self.server_port}"
        #: Method and path of each request.
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Passing(BaseHTTPRequestHandler):
    server: RefusingProxy
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests.append((self.command, self.path))
        if self.server.refused is not None and self.server.refused in unquote(self.path):
            answer = b"<Error><Code>AccessDenied</Code><Message>not here</Message></Error>"
            self._send(403, answer, [])
            return
        behind = http.client.HTTPConnection(str(self.server.behind.hostname), self.server.behind.port)
        # The signature covers the name by which the client knows the proxy.
        behind.request(self.command, self.path, body, dict(self.headers))
        answered = behind.getresponse()
        self._send(answered.status, answered.read(), answered.getheaders())
        behind.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - as http.server wants it

    def _send(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
