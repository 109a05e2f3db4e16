# SPDX-License-Identifier: GPL-2.0-or-later
"""Access to the gateway, refused configurations, and its description of itself."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives import serialization
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from pitr.gateway import openapi
from pitr.gateway.operations import OPERATIONS
from pitr.gateway.token import Token, new_token, read_token
from pitr.lab import Lab
from pitr.lab.host.pki import Pki, make_pki
from tests.support.gateway import CERTIFICATE, Answer, Gateway, running
from tests.support.pitr import Pitr, wait_until
from tests.support.points_over_http import Points

MiB = 1 << 20
NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("tls") / "pki")


@pytest.fixture(scope="module")
def secure(
    shared_lab: Lab, shared_pitr: Pitr, pki: Pki, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with TLS and a known token, without an engine."""
    folder = tmp_path_factory.mktemp("secure")
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef-this-is-ours\n")
    environment = {"PITR_REPO": str(shared_pitr.repository), "PITR_ENGINE_URL": ""}
    options = ("--cert", pki.certificate, "--key", pki.private_key, "--token-file", token)
    with running(environment, folder, *options, "--host", "localhost") as gateway:
        yield gateway


PATHS = ["/points", "/points/x/disks/y", f"/images/{NOWHERE}", "/nosuch"]


@pytest.mark.parametrize("path", PATHS)
def test_nobody_gets_in_without_the_token(gateway: Gateway, path: str) -> None:
    token = gateway.token_file.read_text().strip()
    for headers in (
        (),
        (f"Authorization: Bearer {token[:-1]}",),
        (f"Authorization: Bearer {token}x",),
        (f"Authorization: Basic {token}",),
        (f"Authorization: {token}",),
        ("Authorization: Bearer ",),
        ("Authorization: Bearer \x80\xff",),
        (f"Authorization: Bearer {token}", f"Authorization: Bearer {token}"),
    ):
        options = [word for header in headers for word in ("-H", header)]
        for method in ("GET",) if headers else ("GET", "PUT", "HEAD", "DELETE"):
            ways = ["--head"] if method == "HEAD" else ["-X", method]
            answer = gateway.ask(gateway.bare(path, *options, *ways))
            assert answer.status == 401, (headers, method)
            assert answer.headers["www-authenticate"].startswith("Bearer")
    # The scheme's case does not matter.
    assert gateway.ask(gateway.bare("/points", "-H", f"Authorization: bearer {token}")).status == 200


def test_clients_that_send_no_request_do_not_keep_others_out(shared_pitr: Pitr, tmp_path: Path) -> None:
    patched = "import pitr.gateway.connection as c; c.HEAD_TIMEOUT_S = 1.5"
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    with running(shared_pitr.environment, tmp_path, patched=patched) as gateway, ExitStack() as stack:
        address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))

        def connect(sent: bytes) -> socket.socket:
            client = stack.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(sent)
            return client

        # An incomplete head; and an answered request whose body, which no code reads, does not end.
        slow = [connect(head + b"X-Slow: ") for _ in range(256)]
        assert gateway.ask(gateway.bare("/health")).status == 503
        wait_until(lambda: gateway.ask(gateway.bare("/health")).status == 200, "the slow ones are gone")
        assert all(client.recv(1) == b"" for client in slow)
        dripping = connect(b"PUT /images/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert b" 401 " in dripping.recv(4096)
        _check_is_closed(dripping)
        # Answers that the client does not read.
        greedy = connect((b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n") * 2000)
        _check_is_closed(greedy)
        # One connection, two requests with an allowed pause between them, and a head in two pieces.
        patient = connect(head)
        time.sleep(0.5)
        patient.sendall(b"\r\n")
        time.sleep(0.5)
        patient.sendall(head + b"Connection: close\r\n\r\n")
        assert patient.makefile("rb").read().count(b" 200 ") == 2


def _check_is_closed(client: socket.socket) -> None:
    with pytest.raises(ConnectionError):
        for _ in range(200):
            client.sendall(b"x")
            time.sleep(0.05)


def test_a_slow_download_is_not_taken_for_a_client_without_a_request(
    shared_pitr: Pitr, points: Points, tmp_path: Path
) -> None:
    patched = "import pitr.gateway.connection as c; c.HEAD_TIMEOUT_S = 0.3"
    with running(shared_pitr.environment, tmp_path, patched=patched) as gateway:
        token = gateway.token_file.read_text().strip()
        with socket.create_connection(
            ("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=30
        ) as client:
            path = f"{points.path(0, 'd0')}?format=raw"
            client.sendall(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            received = 0
            # A tape is changed, at the beginning and near the end.
            for pause_at in (0, 39 * MiB):
                while received < pause_at:
                    received += len(client.recv(min(MiB, pause_at - received)))
                time.sleep(1)
            while received < 40 * MiB:
                piece = client.recv(MiB)
                assert piece
                received += len(piece)


def test_the_token_is_nowhere_to_be_seen(gateway: Gateway, pitr: Pitr) -> None:
    token = gateway.token_file.read_text().strip()
    gateway.get("/points")
    gateway.get(f"/images/{NOWHERE}", status=404)
    assert token not in gateway.log
    command = Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes()
    assert token.encode() not in command
    assert token not in repr(Token(token)) and token not in str(vars(gateway.process))


def test_tokens_of_files(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("a-token-of-sixteen+chars==\nand a second line\n")
    assert read_token(path).allows("Bearer a-token-of-sixteen+chars==")
    with new_token() as (token, made):
        assert made.stat().st_mode & 0o777 == 0o600 and made.parent.stat().st_mode & 0o777 == 0o700
        assert token.allows(f"Bearer {made.read_text().strip()}") and not token.allows(None)
    assert not made.exists()


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 15, "with spaces in the token", "ümläüte-ümläüte-ümläüte"]
)
def test_tokens_that_are_none(pitr: Pitr, tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(text)
    assert str(path) in pitr("gateway", "--port", "0", "--token-file", path, code=2).complaint


def test_what_cannot_be_is_refused(pitr: Pitr, pki: Pki, tmp_path: Path) -> None:
    readable = tmp_path / "readable"
    readable.write_text("0123456789abcdef0123456789abcdef")
    readable.chmod(0o644)
    other = make_pki(tmp_path / "other")
    locked = tmp_path / "locked.key"
    locked.write_bytes(_with_passphrase(pki.private_key.read_bytes()))
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("no PEM")
    bare = pitr.with_environment(PITR_REPO="", PITR_ENGINE_URL="", PITR_CONFIG="")
    for runner, options, said in (
        (pitr, ("--host", "::"), "without TLS"),
        (pitr, ("--host", "0.0.0.0"), "without TLS"),  # noqa: S104
        (pitr, ("--host", "no.such.host.invalid"), "cannot listen on the address"),
        (pitr, ("--cert", pki.certificate), "go together"),
        (pitr, ("--cert", pki.certificate, "--key", other.private_key), "cannot use"),
        (pitr, ("--cert", pki.certificate, "--key", locked), "passphrase"),
        (pitr, ("--cert", no_pem, "--key", pki.private_key), "cannot use"),
        (pitr, ("--cert", tmp_path / "missing", "--key", pki.private_key), "No such file"),
        (pitr, ("--token-file", tmp_path / "missing"), "No such file"),
        (pitr, ("--token-file", readable), "all users can read"),
        (pitr, ("--max-requests", "0"), "max-requests"),
        (bare, (), "nothing to serve"),
    ):
        result = runner("gateway", "--port", "0", *options, code=2)
        assert said in result.complaint, options
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "listens on port" in pitr("gateway", "--port", port, code=5).complaint
    assert "cannot listen" in pitr("gateway", "--host", "192.0.2.1", "--port", "0", code=1).complaint
    assert "no repository" in bare("gateway", "--repo", tmp_path, "--port", "0", code=1).complaint
    wrong = pitr.with_environment(PITR_CAFILE=str(other.cafile))
    assert "not trusted" in wrong("gateway", "--port", "0", code=6).complaint


def _with_passphrase(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_without_its_packages_it_says_what_to_install(pitr: Pitr) -> None:
    loaded = {name: None for name in sys.modules if name.startswith(("pitr.gateway.server", "uvicorn"))}
    with mock.patch.dict(sys.modules, {**loaded, "uvicorn": None}):
        sys.modules.pop("pitr.gateway.server", None)
        assert "pip install 'pitr[gateway]'" in pitr("gateway", code=1).complaint


def test_tls_with_the_right_certificate_only(secure: Gateway, pki: Pki, points: Points) -> None:
    assert secure.url.startswith("https://localhost:")
    assert secure.curl("/points").code == CERTIFICATE
    assert secure.curl("/points", "--cacert", pki.cafile).status == 200
    assert secure.curl("/points", "-k").status == 200
    path = points.path(0, "d1") + "?format=raw"
    assert secure.curl(path, "--cacert", pki.cafile).body == points.oracle(0, "d1").read_bytes()
    plain = secure.url.replace("https", "http")
    assert secure.ask(["curl", "-sS", f"{plain}/health"]).status == 0
    assert secure.curl("/health", "--tls-max", "1.1", "-k").status == 0


def test_a_gateway_serves_what_it_has(secure: Gateway, pki: Pki, lab: Lab, tmp_path: Path) -> None:
    answer = secure.curl(f"/images/{NOWHERE}", "--cacert", pki.cafile)
    assert (answer.status, answer.error["type"]) == (501, "NotConfigured")
    environment = {**lab.environment(), "PITR_REPO": "", "PITR_CONFIG": ""}
    with running(environment, tmp_path / "run") as gateway:
        assert gateway.get("/points", status=501).error["advice"] == "Start it with --repo."
        assert gateway.get(f"/points/{NOWHERE}/disks/x", status=501)
        assert gateway.get(f"/images/{NOWHERE}", status=404).error["type"] == "NoSuchDisk"


HOSTILE = [
    "/images/..%2f..%2fapi",
    "/images/%2e%2e",
    "/images/x%00y",
    "/images/x%0d%0aSet-Cookie:%20a",
    f"/images/{'x' * 3000}",
    "/images/a/b",
    "/points/%1b%5b31m",
    "/points/..%2f..%2fetc%2fpasswd/disks/x",
    "/points/%ff%fe/disks/%1b",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_not_found(gateway: Gateway, points: Points, path: str) -> None:
    answer = gateway.get(path, "--path-as-is", status=404)
    assert answer.error["message"] and "set-cookie" not in answer.headers
    assert "\x1b" not in gateway.log and "\r" not in gateway.log


@pytest.mark.parametrize(
    "query",
    ["context=zer0", "nosuch=1", "context=zero&context=zero", "format=qcow2", "compress=lz4", "backup=..%2fx", "x",
     "&".join(f"a{number}=1" for number in range(100)), "%zz=1", "context=%1b%5b31m"],
)  # fmt: skip
def test_wrong_parameters_are_refused_before_anything_is_done(gateway: Gateway, lab: Lab, query: str) -> None:
    lab.engine.forget_requests()
    answer = gateway.get(f"/images/{NOWHERE}?{query}", status=422)
    assert answer.error["type"] == "UsageError"
    assert lab.engine.requests == []


def test_what_goes_together_in_queries_of_points(gateway: Gateway, points: Points) -> None:
    path = points.path(1, "d0")
    for query in (f"format=raw&since={points.id(0)}", "format=raw&compress=zstd", "since=x", "new=true"):
        assert gateway.get(f"{path}?{query}", status=422).error["type"] == "UsageError"
    assert gateway.get(f"{path}?since={NOWHERE}", status=404).error["type"] == "NoSuchPoint"
    assert gateway.get(points.path(1, "nosuch"), status=404).error["type"] == "NoSuchDisk"


@pytest.mark.parametrize("path", ["/points", "/health", "/images/x"])
def test_other_methods_are_refused(gateway: Gateway, path: str) -> None:
    for method in ("POST", "DELETE", "PATCH", "OPTIONS"):
        answer = gateway.get(path, "-X", method, status=405)
        assert answer.error["type"] == "MethodNotAllowed" and "GET" in answer.headers["allow"]
    # The gateway would have to read the whole disk to know the size.
    assert gateway.get("/images/x", "--head", status=405)


# The gateway's description of itself


def test_the_description_is_valid_and_complete(gateway: Gateway) -> None:
    answer = gateway.ask(gateway.bare("/openapi.json"))
    described = answer.json
    OpenAPIV31SpecValidator(described).validate()
    assert described == openapi.document()
    operations = {
        (path, method): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {(one.path, one.method) for one in OPERATIONS}
    for one in OPERATIONS:
        found = operations[one.path, one.method]
        assert found["summary"] and found["description"]
        named = {(each["name"], each["in"]) for each in found["parameters"]}
        assert {(parameter.name, "query") for parameter in one.parameters} <= named
        assert {name for name, where in named if where == "path"} == {
            part[1:-1] for part in one.path.split("/") if part.startswith("{")
        }
        assert (found.get("security") == []) is one.open_to_all
        for response in found["responses"].values():
            assert "$ref" in response or response["description"]
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    # There is no page that would load scripts from elsewhere.
    assert gateway.get("/docs", status=404) and gateway.get("/redoc", status=404)


def _check_described(answer: Answer, method: str, template: str) -> None:
    document = openapi.document()
    operation = document["paths"][template][method]
    response = operation["responses"][str(answer.status)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content: dict[str, Any] = response.get("content", {})
    for name, header in response.get("headers", {}).items():
        if answer.status in (401, 416, 503):
            Draft202012Validator(header["schema"]).validate(answer.headers[name.lower()])
    if not content or method == "head":
        return
    media_type = answer.headers["content-type"]
    assert media_type in content
    if media_type == "application/json":
        Draft202012Validator(
            {**content[media_type]["schema"], "components": document["components"]}
        ).validate(answer.json)


def test_answers_are_as_the_description_says(
    gateway: Gateway, points: Points, lab: Lab, tmp_path: Path
) -> None:
    disk = lab.add_disk("described", 1 << 20)
    stream = tmp_path / "stream"
    stream.write_bytes(gateway.get(f"/images/{disk.id}").body)
    of_disk, image, one_point = "/points/{point}/disks/{disk}", "/images/{image}", "/points/{point}"
    checked = set()
    for method, template, path, options in (
        ("get", "/health", "/health", ()),
        ("get", "/health", "/health?x=1", ()),
        ("get", "/openapi.json", "/openapi.json", ()),
        ("get", "/points", "/points", ()),
        ("get", "/points", "/points?vm=nosuch", ()),
        ("get", one_point, f"/points/{points.id(0)}", ()),
        ("get", one_point, "/points/nosuch", ()),
        ("get", of_disk, points.path(0, "d1"), ()),
        ("get", of_disk, f"{points.path(0, 'd1')}?compress=zstd", ()),
        ("get", of_disk, f"{points.path(0, 'd1')}?format=rbd-diff", ()),
        ("get", of_disk, f"{points.path(0, 'd1')}?format=raw", ()),
        ("get", of_disk, f"{points.path(0, 'd1')}?format=raw", ("-r", "0-1")),
        ("get", of_disk, f"{points.path(0, 'd1')}?format=raw", ("-r", "9999999999-")),
        ("get", of_disk, f"{points.path(0, 'd1')}?format=raw", ("-H", "If-None-Match: *")),
        ("head", of_disk, f"{points.path(0, 'd1')}?format=raw", ("--head",)),
        ("get", of_disk, points.path(0, "nosuch"), ()),
        ("get", of_disk, f"{points.path(0, 'd1')}?format=x", ()),
        ("get", image, f"/images/{disk.id}", ()),
        ("get", image, f"/images/{disk.id}?context=dirty", ()),
        ("get", image, f"/images/{NOWHERE}", ()),
        ("put", image, f"/images/{disk.id}", ("-T", stream)),
        ("put", image, f"/images/{disk.id}?new=true", ("-T", stream)),
        ("put", image, f"/images/{disk.id}?new=true", ("-T", "/dev/null")),
    ):
        answer = gateway.curl(path, *options)
        _check_described(answer, method, template)
        checked.add((method, template, answer.status))
        if not template.startswith(("/health", "/openapi")):
            _check_described(gateway.ask(gateway.bare(path, *options)), method, template)
    assert {status for *_, status in checked} == {200, 206, 304, 400, 404, 409, 416, 422}
