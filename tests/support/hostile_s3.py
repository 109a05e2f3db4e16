# SPDX-License-Identifier: GPL-2.0-or-later
"""An S3 server that ignores If-None-Match and overwrites silently, as some servers for tests do."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
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
