# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores on S3: uploads in parts, their ends, repeated requests, and what each failure of a server says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore.store
import pytest

from pitr.errors import UsageError
from pitr.repository.store import ObjectExists
from pitr.repository.store.local_copies import LocalCopies
from pitr.repository.store.object_errors import (
    AccessRefused,
    ClockSkew,
    NoSuchBucket,
    ObjectStoreError,
    StoreFull,
    StoreUnreachable,
    Throttled,
    WrongRegion,
)
from pitr.repository.store.object_store import ObjectStore
from pitr.repository.store.s3 import S3Location, open_store
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by
from tests.support import s3

MiB = 1 << 20


@pytest.fixture
def place() -> S3Location:
    return s3.place()


@pytest.fixture
def store(place: S3Location, tmp_path: Path) -> Iterator[ObjectStore]:
    store = open_store(place, tmp_path)
    yield store
    store.close()


def _uploads(place: S3Location) -> list[Any]:
    found = s3.client(s3.server()).list_multipart_uploads(Bucket=place.bucket, Prefix=place.prefix)
    return found.get("Uploads") or []


def _content(place: S3Location, name: str) -> bytes:
    key = f"{place.prefix}/{name}"
    body: bytes = s3.client(s3.server()).get_object(Bucket=place.bucket, Key=key)["Body"].read()
    return body


@pytest.mark.parametrize("size", [8 * MiB, 8 * MiB + 1, 21 * MiB + 5])
def test_a_large_object_is_uploaded_in_parts(store: ObjectStore, place: S3Location, size: int) -> None:
    data = os.urandom(size)
    with store.new("blobs/d/s") as new:
        for start in range(0, size, 700_001):
            new.write(memoryview(data)[start : start + 700_001])
        assert list(store.list("blobs")) == []
        new.commit()
    assert _content(place, "blobs/d/s") == data
    with store.open("blobs/d/s") as file:
        assert file.size == size and file.read_at(size - 9, 100) == data[-9:]
    with pytest.raises(ObjectExists), store.new("blobs/d/s") as new:
        new.write(data)
        new.commit()
    assert _uploads(place) == []


def test_an_upload_that_is_not_committed_leaves_nothing(store: ObjectStore, place: S3Location) -> None:
    with pytest.raises(KeyboardInterrupt), store.new("blobs/d/s") as new:
        for _ in range(20):
            new.write(os.urandom(MiB))
        raise KeyboardInterrupt
    for _ in range(100):
        if not _uploads(place):
            break
        time.sleep(0.05)
    assert _uploads(place) == [] and list(store.list("blobs")) == []


def test_parts_grow_so_that_their_number_stays_below_the_limit() -> None:
    objects = obstore.store.MemoryStore()
    new = ObjectStore(objects, objects, Path("unused")).new("blobs/d/s", expected=1 << 40)
    assert (1 << 40) / new._part < 10_000 and new._part < 128 * MiB


class _Server(ThreadingHTTPServer):
    """Answers each request with what `answer` returns: a status and a body; None never answers."""

    daemon_threads = True
    answer: Callable[[str, str], tuple[int, bytes] | None]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        found = self.server.answer(self.command, self.path)
        if found is None:
            time.sleep(30)
            return
        status, body = found
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - as http.server wants it

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def _serving(
    answer: Callable[[str, str], tuple[int, bytes] | None], state: Path, repeat_s: float = 1.0
) -> Iterator[ObjectStore]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.answer = answer
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = S3Location(
            "backups",
            "p",
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key_id="key",
            secret_access_key="secret",
        ).options()
        once = obstore.store.S3Store(**options, retry_config={"max_retries": 0})
        store = ObjectStore(once, once, state, repeat_s=repeat_s)
        try:
            yield store
        finally:
            store.close()
            server.shutdown()


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>because of {code}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "InvalidAccessKeyId", AccessRefused, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", AccessRefused, "AWS_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", AccessRefused, "rights"),
        (403, "RequestTimeTooSkewed", ClockSkew, "clock"),
        (404, "NoSuchBucket", NoSuchBucket, "Create the bucket"),
        (400, "AuthorizationHeaderMalformed", WrongRegion, "AWS_REGION"),
        (507, "QuotaExceeded", StoreFull, "pitr prune"),
        (503, "SlowDown", Throttled, "fewer"),
        (418, "Teapot", ObjectStoreError, ""),
    ],
)
def test_each_failure_of_a_server_says_what_to_do(
    tmp_path: Path, status: int, code: str, kind: type[ObjectStoreError], words: str
) -> None:
    with _serving(lambda method, path: (status, _error(code)), tmp_path) as store:
        for ask in (
            lambda: store.read("one", limit=10),
            lambda: store.create("one", b"1"),
            lambda: list(store.list("backups")),
            lambda: store.local_file("one"),
        ):
            with pytest.raises(ObjectStoreError) as raised:
                ask()
            assert type(raised.value) is kind and raised.value.exit_code == 6
            assert words in raised.value.advice and code in raised.value.message


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://nowhere.invalid", "unknown"),
        ("https://127.0.0.1:{port}", "TLS"),
    ],
)
def test_a_server_without_an_answer_is_unreachable(tmp_path: Path, endpoint: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=hang_up, daemon=True).start()
        where = endpoint.format(port=listener.getsockname()[1])
        place = replace(
            S3Location.parse("s3://backups/p"), endpoint=where, access_key_id="k", secret_access_key="s"
        )
        once = obstore.store.S3Store(**place.options(), retry_config={"max_retries": 0})
        store = ObjectStore(once, once, tmp_path, repeat_s=0.1)
        with pytest.raises(StoreUnreachable) as raised:
            store.read("one", limit=10)
        assert words in raised.value.message and raised.value.advice
        with pytest.raises(StoreUnreachable):
            store.create("one", b"")
        store.close()


def test_a_create_whose_answer_was_lost_is_a_create(tmp_path: Path) -> None:
    held: dict[str, bytes] = {}

    def answer(method: str, path: str) -> tuple[int, bytes] | None:
        if method in ("GET", "HEAD"):
            return 200, held[path]
        if path in held:
            return 412, _error("PreconditionFailed")
        held[path] = b"mine" if path.endswith("mine") else b"of another writer"
        return 500, _error("InternalError")

    with _serving(answer, tmp_path, repeat_s=10) as store:
        store.create("mine", b"mine")
        with pytest.raises(ObjectExists):
            store.create("theirs", b"mine")


def test_a_store_that_stays_down_ends_the_create(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(method: str, path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 503, _error("SlowDown")

    with _serving(answer, tmp_path, repeat_s=1.5) as store, pytest.raises(Throttled):
        store.create("one", b"")
    assert 2 <= len(asked) <= 10


def test_an_upload_that_fails_in_the_middle_ends_with_its_reason(tmp_path: Path) -> None:
    def answer(method: str, path: str) -> tuple[int, bytes]:
        if method == "POST":
            return (
                200,
                b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            )
        return (404, b"") if method == "HEAD" else (507, _error("QuotaExceeded"))

    with _serving(answer, tmp_path) as store, pytest.raises(StoreFull), store.new("blobs/d/s") as new:
        for _ in range(100):
            new.write(bytes(MiB))
        new.commit()


@pytest.mark.parametrize("ask", ["read", "upload"])
def test_a_cancellation_ends_the_wait_for_a_silent_server(tmp_path: Path, ask: str) -> None:
    def answer(method: str, path: str) -> tuple[int, bytes] | None:
        return (404, b"") if method == "HEAD" else None

    cancellation = Cancellation()
    with _serving(answer, tmp_path) as store:
        threading.Timer(0.3, cancellation.cancel).start()
        started = time.monotonic()
        with cancelled_by(cancellation), pytest.raises(Cancelled):
            if ask == "read":
                store.read("one", limit=10)
            with store.new("blobs/d/s") as new:
                while True:
                    new.write(bytes(MiB))
        assert time.monotonic() - started < 5


def test_a_local_file_is_fetched_again_only_when_it_changed(
    store: ObjectStore, place: S3Location, tmp_path: Path
) -> None:
    store.create("indexes/d/s", b"first")
    path = store.local_file("indexes/d/s")
    before = path.stat().st_mtime_ns
    assert store.local_file("indexes/d/s") == path and path.read_bytes() == b"first"
    assert path.stat().st_ino and path.stat().st_mtime_ns >= before
    # Damage in the store is seen, although there is a good copy.
    s3.client(s3.server()).put_object(Bucket=place.bucket, Key=f"{place.prefix}/indexes/d/s", Body=b"other")
    assert store.local_file("indexes/d/s").read_bytes() == b"other"
    LocalCopies(tmp_path / "copies").trim(limit=0)
    assert not path.exists() and store.local_file("indexes/d/s").read_bytes() == b"other"


@pytest.mark.parametrize(
    "url",
    ["s3:/x", "s3://", "s3://A", "s3://bucket/a b", "s3://bucket//x", "s3://bucket/../x", "s3://b..c/x"],
)
def test_what_names_no_place_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        S3Location.parse(url)


def test_a_place_takes_the_usual_environment_and_hides_its_secret() -> None:
    found = S3Location.parse("s3://bucket/a/b/").with_environment(
        {
            "AWS_ENDPOINT_URL": "http://other",
            "AWS_ENDPOINT_URL_S3": "http://store:9000",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "hidden",
            "AWS_REGION": "eu-1",
        }
    )
    assert (found.url, found.endpoint, found.region) == ("s3://bucket/a/b", "http://store:9000", "eu-1")
    options = found.options()
    assert options["client_options"]["allow_http"] and not options["virtual_hosted_style_request"]
    assert "hidden" not in repr(found) and "hidden" not in str(found)
    aws = S3Location.parse("s3://bucket").with_environment({}).options()
    assert aws["virtual_hosted_style_request"] and not aws["client_options"]["allow_http"]
    with pytest.raises(UsageError):
        S3Location.parse("s3://bucket").with_environment({"AWS_ENDPOINT_URL": "store:9000"})
