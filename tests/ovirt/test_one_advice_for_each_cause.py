# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates, proxies and user names that are wrong, made for real: each cause has its own advice."""

from __future__ import annotations

import http.server
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import EngineError, ImageioError, LoginError, UsageError
from pitr.lab.host.pki import Pki, make_pki
from pitr.ovirt.engine import Engine
from pitr.ovirt.engine.proxy import proxy_for
from pitr.ovirt.engine.server import certificate_end
from pitr.ovirt.imageio.address import ImageioAddress
from pitr.ovirt.imageio.disk import ImageioSource
from tests.support.scripted_engine import Answer, Script, config_of, serve

PROXY_VARIABLES = (
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def engine_with(pki: Pki) -> Iterator[Script]:
    with serve((pki.certificate, pki.private_key)) as script:
        yield script


def refused(script: Script, cafile: Path | None) -> EngineError:
    config = config_of(script, cafile=cafile)
    with pytest.raises(EngineError) as login:
        Engine(config).__enter__()
    # `pitr doctor` says the same.
    with pytest.raises(EngineError) as checked:
        certificate_end(config)
    assert checked.value.advice == login.value.advice
    # So does an API call.
    engine = Engine(config)
    engine._login._token = script.token
    with pytest.raises(EngineError) as called:
        engine.version  # noqa: B018
    assert called.value.advice == login.value.advice
    return login.value


def test_an_expired_certificate(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki", expired=True)
    with engine_with(pki) as script:
        error = refused(script, pki.cafile)
    assert "expired" in error.message
    assert "engine-setup" in error.advice and "--cafile" not in error.advice


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki", names=("engine.example.com", "192.0.2.1"))
    with engine_with(pki) as script:
        error = refused(script, pki.cafile)
    assert "it is for engine.example.com, 192.0.2.1" in error.message
    assert "URL" in error.advice and "--cafile" not in error.advice


def test_an_unknown_authority(tmp_path: Path) -> None:
    pki, company = make_pki(tmp_path / "pki"), make_pki(tmp_path / "company", authority="Company CA")
    with engine_with(pki) as script:
        error = refused(script, company.cafile)
    assert "--cafile" in error.advice and "ca-certificate" in error.advice


@pytest.mark.parametrize(
    ("names", "expired", "known", "said"),
    [
        (("localhost",), True, True, "Enroll"),
        (("host7.example.com",), False, True, "name"),
        (("localhost",), False, False, "company's CA"),
    ],
)
def test_a_hosts_certificate(
    tmp_path: Path, names: tuple[str, ...], expired: bool, known: bool, said: str
) -> None:
    host = make_pki(tmp_path / "host", names=names, expired=expired)
    company = make_pki(tmp_path / "company", authority="Company CA")
    with engine_with(host) as script:
        address = ImageioAddress(
            f"{script.url}/images/ticket", cafile=host.cafile if known else company.cafile
        )
        with pytest.raises(ImageioError, match="is not trusted") as caught:
            ImageioSource(address).extents()
        assert said in caught.value.advice
        # Both authorities in one file.
        if not known:
            both = tmp_path / "both.pem"
            both.write_bytes(company.cafile.read_bytes() + host.cafile.read_bytes())
            with pytest.raises(ImageioError) as caught:
                ImageioSource(ImageioAddress(f"{script.url}/images/ticket", cafile=both)).extents()
            assert "not trusted" not in caught.value.message


@pytest.mark.parametrize(
    ("username", "said"),
    [
        ("admin@internal", "admin@ovirt@internalsso"),
        ("admin", "Add the profile"),
        ("backup@example.com", "user name and the password"),
    ],
)
def test_a_refused_login(username: str, said: str) -> None:
    with serve() as script:
        script.sso = [Answer(400, '{"error": "Cannot authenticate user"}', "application/json")]
        with pytest.raises(LoginError) as caught:
            Engine(config_of(script, username=username)).__enter__()
    assert said in caught.value.advice


class ConnectProxy(http.server.BaseHTTPRequestHandler):
    """An HTTP proxy that only knows CONNECT. `refuse` is the status of its answers, 0 to let them through."""

    refuse = 0
    asked: list[tuple[str, str | None]]

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        if self.refuse:
            self.send_error(self.refuse)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: far, far: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    ends[end].sendall(data)


@contextmanager
def proxy(refuse: int = 0) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    asked: list[tuple[str, str | None]] = []
    handler = type("Handler", (ConnectProxy,), {"refuse": refuse, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_login_and_calls_obey_the_same_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    pki = make_pki(tmp_path / "pki")
    with engine_with(pki) as script, proxy() as (address, asked):
        monkeypatch.setenv(variable, f"http://us%65r:pass@{address}")
        config = config_of(script, cafile=pki.cafile)
        with Engine(config) as engine:
            assert engine.version == "4.5.6"
        assert certificate_end(config) is not None
        # Login, call, logout and the check of the certificate.
        assert len(asked) == 4 and len({authorization for _, authorization in asked}) == 1
        assert asked[0][1] == "Basic dXNlcjpwYXNz"
        monkeypatch.setenv("no_proxy", "example.com, localhost")
        with Engine(config) as engine:
            assert engine.version == "4.5.6"
        assert certificate_end(config) is not None and len(asked) == 4


@pytest.mark.parametrize("refuse", [403, 502, None])
def test_a_proxy_that_does_not_let_pitr_through_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: int | None
) -> None:
    pki = make_pki(tmp_path / "pki")
    with engine_with(pki) as script, proxy(refuse or 0) as (running, _):
        address = running if refuse is not None else _unused_address()
        monkeypatch.setenv("https_proxy", f"http://user:hidden@{address}")
        error = refused_by_proxy(script, pki)
    assert f"proxy {address} (environment variable https_proxy)" in error.message
    assert "hidden" not in str(error)
    assert "no_proxy" in error.advice and "https_proxy" in error.advice


def _unused_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def refused_by_proxy(script: Script, pki: Pki) -> EngineError:
    engine = Engine(config_of(script, cafile=pki.cafile), retry_pause_s=0.01)
    with pytest.raises(EngineError) as login:
        engine.__enter__()
    engine = Engine(config_of(script, cafile=pki.cafile), retry_pause_s=0.01)
    engine._login._token = script.token
    with pytest.raises(EngineError) as called:
        engine.version  # noqa: B018
    assert called.value.advice == login.value.advice
    return login.value


def test_which_proxy() -> None:
    def found(url: str, **environment: str) -> str | None:
        proxy = proxy_for(url, environment)
        return None if proxy is None else proxy.variable

    https, plain = "https://engine.example.com/ovirt-engine/api", "http://10.1.2.3/ovirt-engine/api"
    assert found(https) is None
    assert found(https, HTTPS_PROXY="p:1", https_proxy="q:1") == "https_proxy"
    assert found(https, http_proxy="p:1") is None and found(plain, http_proxy="p:1") == "http_proxy"
    assert found(plain, HTTP_PROXY="p:1") is None, "as libcurl"
    assert found(plain, ALL_PROXY="p:1") == "ALL_PROXY"
    for exception in ("*", "example.com", ".example.com", "other,engine.example.com", "x EXAMPLE.com"):
        assert found(https, https_proxy="p:1", no_proxy=exception) is None
    for exception in ("ample.com", "engine.example.com.org", ""):
        assert found(https, https_proxy="p:1", NO_PROXY=exception) == "https_proxy"
    assert found(plain, http_proxy="p:1", no_proxy="10.0.0.0/8") is None
    with pytest.raises(UsageError, match=r"all_proxy .* socks5://p:1"):
        found(https, all_proxy="socks5://user:secret@p:1")
