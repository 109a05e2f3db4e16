# SPDX-License-Identifier: GPL-2.0-or-later
"""A scripted engine: it says word for word what a test tells it to, also what no engine would say."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.ovirt.engine import EngineConfig

API = "/ovirt-engine/api"
VERSION = (
    "<api><product_info><name>oVirt Engine</name>"
    "<version><full_version>4.5.6</full_version></version></product_info></api>"
)


@dataclass(frozen=True)
class Answer:
    """One answer; `drop` closes the connection instead, after the request took effect (`then` ran)."""

    status: int = 200
    body: str = ""
    content_type: str | None = "application/xml"
    drop: bool = False
    then: Callable[[], object] | None = None


def fault(status: int, detail: str) -> Answer:
    return Answer(status, f"<fault><detail>{detail}</detail><reason>Operation Failed</reason></fault>")


MISSING = Answer(404, "", None)
DROP = Answer(drop=True)
DONE = Answer(200, "<action><status>complete</status></action>")


@dataclass
class Script:
    """The engine's side: answers by method and path, each list's last one for ever."""

    url: str = ""
    password: str = "secret"
    token: str = "token-1"
    logins: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    answers: list[tuple[str, re.Pattern[str], list[Answer]]] = field(default_factory=list)
    sso: list[Answer] = field(default_factory=list)

    def on(self, method: str, path: str, *answers: Answer | str) -> None:
        """Answer `method` on `path` (regular expression, below the API, with query) with these, in turn."""
        found = [Answer(body=answer) if isinstance(answer, str) else answer for answer in answers]
        self.answers.insert(0, (method, re.compile(path), found))

    def next(self, method: str, path: str) -> Answer:
        for wanted, pattern, answers in self.answers:
            if wanted == method and pattern.fullmatch(path):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return MISSING

    def asked(self, method: str, path: str) -> int:
        return sum(m == method and re.fullmatch(path, p) is not None for m, p in self.requests)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Script

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path == "/ovirt-engine/sso/oauth/token":
            self._login(body)
        elif self.path == "/ovirt-engine/services/sso-logout":
            self.script.requests.append((self.command, "logout"))
            self._send(Answer(200, "{}", "application/json"))
        elif self.headers.get("Authorization") != f"Bearer {self.script.token}":
            self.script.requests.append((self.command, "unauthorized"))
            self._send(Answer(401, "<html>no</html>", "text/html"))
        else:
            path = self.path.removeprefix(API)
            self.script.requests.append((self.command, path))
            self.script.bodies.append(body)
            answer = self.script.next(self.command, path)
            if answer.then is not None:
                answer.then()
            self._send(answer)

    do_POST = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

    def _login(self, body: str) -> None:
        self.script.logins.append(body)
        if self.script.sso:
            self._send(self.script.sso.pop(0))
        elif f"password={self.script.password}" in body.split("&"):
            self._send(Answer(200, f'{{"access_token": "{self.script.token}"}}', "application/json"))
        else:
            error = '{"error_code": "access_denied", "error": "Cannot authenticate user: wrong password."}'
            self._send(Answer(400, error, "application/json"))

    def _send(self, answer: Answer) -> None:
        if answer.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        data = answer.body.encode()
        self.send_response(answer.status)
        if answer.content_type is not None:
            self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(tls: tuple[Path, Path] | None = None) -> Iterator[Script]:
    """Run a scripted engine; `tls` is (certificate, key)."""
    script = Script()
    script.on("GET", "", VERSION)
    handler = type("Handler", (_Handler,), {"script": script})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        script.url = f"{'http' if tls is None else 'https'}://localhost:{server.server_port}"
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()


def config_of(script: Script, **changes: Any) -> EngineConfig:
    values = {"url": script.url + API, "username": "admin@internal", "password": "secret"} | changes
    return EngineConfig(**values)
