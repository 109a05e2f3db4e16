# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's HTTPS server: TLS, keep-alive, login, and injected faults."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pitr.errors import PitrError
from pitr.lab.engine import render, xml
from pitr.lab.engine.faults import Rule
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.refusals import Refusal
from pitr.lab.engine.requests import ApiRequest
from pitr.lab.engine.routes import Routes
from pitr.lab.engine.sso import Tokens
from pitr.lab.engine.workers import EngineStopping

log = logging.getLogger("pitr.lab.engine")

MAX_BODY = 16 << 20
#: Compress longer answers for clients that accept it, like the engine's front end.
GZIP_ABOVE = 1024


class ServedRequest(NamedTuple):
    """A finished request; `path` includes the query. Status 0 means that the server sent no answer."""

    method: str
    path: str
    status: int


class ServedReply(NamedTuple):
    status: int
    body: bytes
    content_type: str
    location: str | None = None


class EngineServer:
    """Serves the API on its own port on localhost, in threads, from start() until close()."""

    def __init__(
        self,
        installation: Installation,
        tokens: Tokens,
        *,
        certificate: Path,
        private_key: Path,
        cafile: Path,
    ) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, private_key)
        self.installation = installation
        self.tokens = tokens
        self.routes = Routes(installation)
        self.cafile = cafile
        self._lock = threading.Lock()
        self._requests: list[ServedRequest] = []
        self._http = _Server(self, self._tls)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="lab engine", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def requests(self) -> list[ServedRequest]:
        """Return the requests so far, in the order of their answers."""
        with self._lock:
            return list(self._requests)

    def forget_requests(self) -> None:
        with self._lock:
            self._requests.clear()

    def record(self, request: ServedRequest) -> None:
        with self._lock:
            self._requests.append(request)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening, close the open connections and wait for all threads."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.cut_connections()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, engine: EngineServer, tls: ssl.SSLContext) -> None:
        self.engine = engine
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Do the handshake in the connection's own thread, and keep a list of open connections."""
        me = threading.current_thread()
        with self._lock:
            self._open[me] = request
        try:
            request.settimeout(60)
            request = self._tls.wrap_socket(request, server_side=True)
            with self._lock:
                self._open[me] = request
            self.finish_request(request, client_address)
        except (OSError, EngineStopping):
            # The client is gone or does not trust the certificate, and reports that itself.
            log.debug("connection from %s ended", client_address, exc_info=True)
        finally:
            self.shutdown_request(request)
            with self._lock:
                del self._open[me]

    def cut_connections(self) -> None:
        with self._lock:
            connections = dict(self._open)
        for connection in connections.values():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in connections:
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def _serve(self) -> None:
        engine = self.server.engine
        path = urlsplit(self.path).path
        body = self._body()
        rule = engine.installation.faults.take(self.command, path)
        reply: ServedReply | None = None
        if rule is None or rule.kind == "stall" or rule.handled:
            if rule is not None:
                engine.installation.workers.sleep(rule.seconds)
            reply = self._reply(path, body)
        if rule is not None and rule.kind == "answer":
            reply = _injected(rule)
        if rule is not None and rule.kind == "drop":
            engine.record(ServedRequest(self.command, self.path, 0))
            self.close_connection = True
            return
        if reply is not None:
            engine.record(ServedRequest(self.command, self.path, reply.status))
            self._send(reply)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the base class calls these names

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= MAX_BODY:
            self.close_connection = True
            return b""
        return self.rfile.read(length)

    def _reply(self, path: str, body: bytes) -> ServedReply:
        tokens = self.server.engine.tokens
        form = dict(parse_qsl(body.decode("utf-8", "replace"))) if path in _SSO else {}
        if self.command == "POST" and path == _LOGIN:
            return _json(*tokens.login(form))
        if self.command == "POST" and path == _LOGOUT:
            return _json(*tokens.logout(form))
        if path == "/ovirt-engine/services/pki-resource":
            return ServedReply(200, self.server.engine.cafile.read_bytes(), "application/x-x509-ca-cert")
        if path != render.API and not path.startswith(f"{render.API}/"):
            return ServedReply(404, b"", "text/html")
        if not tokens.accepts(self.headers.get("Authorization")):
            return ServedReply(401, b"", "text/html")
        return self._api_reply(path, body)

    def _api_reply(self, path: str, body: bytes) -> ServedReply:
        query = dict(parse_qsl(urlsplit(self.path).query))
        request = ApiRequest(self.command, path[len(render.API) :], query, body)
        try:
            answer = self.server.engine.routes.answer(request)
        except Refusal as refusal:
            return _fault(refusal)
        except EngineStopping:
            raise
        except PitrError as error:
            log.exception("%s %s failed", self.command, self.path)
            return _fault(Refusal(500, f"[{error.message}]"))
        except Exception as error:
            log.exception("%s %s failed", self.command, self.path)
            self.server.engine.installation.workers.failures.append(error)
            return _fault(Refusal(500, "[Internal Engine Error]"))
        content = b"" if answer.root is None else xml.document(answer.root)
        return ServedReply(answer.status, content, _XML, answer.location)

    def _send(self, reply: ServedReply) -> None:
        body = reply.body
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        if reply.status == 401:
            self.send_header("WWW-Authenticate", 'Bearer realm="RESTAPI"')
        if reply.location is not None:
            self.send_header("Location", f"https://{self.headers.get('Host')}{reply.location}")
        if len(body) > GZIP_ABOVE and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)


_XML = "application/xml;charset=UTF-8"
_LOGIN = "/ovirt-engine/sso/oauth/token"
_LOGOUT = "/ovirt-engine/services/sso-logout"
_SSO = frozenset({_LOGIN, _LOGOUT})


def _json(status: int, document: dict[str, str]) -> ServedReply:
    return ServedReply(status, json.dumps(document).encode(), "application/json;charset=UTF-8")


def _fault(refusal: Refusal) -> ServedReply:
    if refusal.detail is None:
        return ServedReply(refusal.status, b"", _XML)
    return ServedReply(refusal.status, xml.document(render.fault(refusal.detail, refusal.reason)), _XML)


def _injected(rule: Rule) -> ServedReply:
    return ServedReply(rule.status, rule.body.encode(), rule.content_type)
