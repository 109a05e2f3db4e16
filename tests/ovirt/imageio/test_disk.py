# SPDX-License-Identifier: GPL-2.0-or-later
"""Read and write a real ovirt-imageio daemon through a proxy that injects faults."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pitr.copier import copy
from pitr.copier.protocols import Sink, Source
from pitr.endpoints.images.memory import MemorySink, MemorySource
from pitr.errors import CheckpointGone, ImageioError
from pitr.lab.host.host import Host
from pitr.ovirt.imageio import disk as imageio
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSink, ImageioSource
from pitr.ovirt.imageio.session import ImageioSession
from pitr.system.cancellation import Cancellation, cancelled_by
from tests.support.disk_kinds import add_disk, remove_disk
from tests.support.proxies import ByteProxy, Fault, HttpProxy

SIZE = 6 << 20
MIB = 1 << 20
TICKET = "secret-ticket"
CONTENT = random.Random(7).randbytes(SIZE)


class Behind:
    """A disk behind a faulty proxy; it records the pauses between retries instead of sleeping."""

    def __init__(self, proxy: HttpProxy, address: ImageioAddress) -> None:
        self.proxy = proxy
        self.address = replace(address, transfer_url=f"http://127.0.0.1:{proxy.port}/images/{TICKET}")
        self.direct = address
        self.pauses: list[float] = []

    def source(self) -> ImageioSource:
        return ImageioSource(self.address, sleep=self.pauses.append)

    def sink(self) -> ImageioSink:
        return ImageioSink(self.address, reads_zero=True, sleep=self.pauses.append)

    def read(self, *ranges: tuple[int, int], source: ImageioSource | None = None) -> bytes:
        buffer = bytearray(sum(length for _, length in ranges))
        with (source or self.source()).open_reader() as reader:
            reader.read_ranges(ranges, memoryview(buffer))
        return bytes(buffer)

    def content(self) -> bytes:
        """Return the disk's data, without the proxy."""
        return self.read((0, SIZE), source=ImageioSource(self.direct))


@pytest.fixture
def behind(plain_host: Host) -> Iterator[Behind]:
    address = add_disk(plain_host, TICKET, SIZE)
    port = urlsplit(plain_host.images_url).port
    assert port is not None
    try:
        with HttpProxy(port) as proxy:
            yield Behind(proxy, address)
    finally:
        remove_disk(plain_host, TICKET)


@pytest.fixture
def filled(behind: Behind) -> Behind:
    with ImageioSink(behind.direct, reads_zero=True).open_writer() as writer:
        writer.write(0, memoryview(CONTENT))
    return behind


BROKEN: list[Fault] = ["reset", "cut answer", "lost answer", "500"]


@pytest.mark.parametrize("fault", BROKEN)
def test_a_failed_read_is_retried(filled: Behind, fault: Fault) -> None:
    filled.proxy.fail(fault, "GET", times=2)
    ranges = [(0, 4096), (100 * 1024, MIB), (5 * MIB, MIB)]
    assert filled.read(*ranges) == b"".join(CONTENT[at : at + length] for at, length in ranges)
    assert filled.proxy.ordered == 0
    assert len(filled.pauses) == 2


@pytest.mark.parametrize("fault", [*BROKEN, "cut request"])
def test_a_failed_write_is_retried(behind: Behind, fault: Fault) -> None:
    behind.proxy.fail(fault, "PUT", times=2)
    sink = behind.sink()
    with sink.open_writer() as writer:
        for at in range(0, SIZE, 2 * MIB):
            writer.write(at, memoryview(CONTENT)[at : at + 2 * MIB])
    sink.flush()
    assert behind.proxy.ordered == 0
    assert behind.content() == CONTENT


@pytest.mark.parametrize("fault", BROKEN)
def test_a_failed_zero_is_retried(filled: Behind, fault: Fault) -> None:
    filled.proxy.fail(fault, "PATCH")
    with filled.sink().open_writer() as writer:
        writer.zero(MIB, 2 * MIB)
    assert filled.proxy.ordered == 0
    assert filled.content() == CONTENT[:MIB] + bytes(2 * MIB) + CONTENT[3 * MIB :]


@pytest.mark.parametrize("fault", BROKEN)
def test_failed_options_extents_and_flush_are_retried(filled: Behind, fault: Fault) -> None:
    filled.proxy.fail(fault, "OPTIONS")
    filled.proxy.fail(fault, "GET", path="/extents")
    filled.proxy.fail(fault, "PATCH")
    assert filled.source().extents().covers(SIZE)
    filled.sink().flush()
    assert filled.proxy.ordered == 0


def test_opening_a_connection_is_retried(filled: Behind) -> None:
    filled.proxy.fail("reset", "OPTIONS", times=5)
    assert filled.read((0, SIZE)) == CONTENT
    assert len(filled.pauses) == 5


CALLS: dict[str, tuple[str, Callable[[Behind], Any]]] = {
    "read": ("GET", lambda behind: behind.read((0, 4096))),
    "write": ("PUT", lambda behind: behind.sink().open_writer().write(0, memoryview(b"x" * 512))),
    "zero": ("PATCH", lambda behind: behind.sink().open_writer().zero(0, 512)),
    "list the zero extents": ("GET", lambda behind: behind.source().extents()),
    "flush the disk": ("PATCH", lambda behind: behind.sink().flush()),
    "report its options": ("OPTIONS", lambda behind: behind.sink().max_writers),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_refusal_is_final_and_says_what_where_and_why_but_not_the_ticket(behind: Behind, what: str) -> None:
    method, call = CALLS[what]
    behind.proxy.fail("403", method)
    with pytest.raises(ImageioError) as raised:
        call(behind)
    assert behind.pauses == []
    assert raised.value.message.startswith(
        f"ovirt-imageio at 127.0.0.1:{behind.proxy.port} refuses to {what}"
    )
    assert "ordered by the test" in raised.value.message
    assert "\n" not in raised.value.message
    assert TICKET not in raised.value.message
    assert raised.value.__suppress_context__, "the library's own error, shown with --debug, names the ticket"
    assert "run the command again" in raised.value.advice


@pytest.mark.parametrize("what", CALLS)
def test_the_sixth_failure_is_final(behind: Behind, what: str) -> None:
    method, call = CALLS[what]
    behind.proxy.fail("500", method, times=6)
    with pytest.raises(ImageioError, match=f"failed to {what}.*6 times") as raised:
        call(behind)
    assert behind.proxy.ordered == 0
    assert len(behind.pauses) == 5
    assert TICKET not in raised.value.message


def test_a_read_of_a_cancelled_copy_is_not_retried(filled: Behind) -> None:
    stopped = Cancellation()
    stopped.cancel()
    filled.proxy.fail("500", "GET", times=1)
    with cancelled_by(stopped), pytest.raises(ImageioError):
        filled.read((0, 4096))
    assert filled.pauses == []


def test_a_ticket_that_does_not_exist_is_a_refusal(behind: Behind) -> None:
    wrong = replace(behind.direct, transfer_url=behind.direct.transfer_url + "-2")
    with pytest.raises(ImageioError, match="No such ticket") as raised:
        ImageioSource(wrong).extents()
    assert TICKET not in raised.value.message


def test_a_request_to_a_silent_server_is_retried(filled: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imageio, "READ_TIMEOUT_S", 0.3)
    for method in ("GET", "PUT", "PATCH"):
        filled.proxy.fail("stall", method)
    sink = filled.sink()
    with sink.open_writer() as writer:
        writer.write(0, memoryview(b"x" * MIB))
        writer.zero(MIB, MIB)
        writer.write(2 * MIB, memoryview(b"y" * MIB))
    assert filled.read((0, SIZE)) == b"x" * MIB + bytes(MIB) + b"y" * MIB + CONTENT[3 * MIB :]
    assert filled.proxy.ordered == 0
    assert len(filled.pauses) == 3


def test_extents_and_flush_have_a_timeout_too(filled: Behind) -> None:
    filled.proxy.fail("stall", "GET", path="/extents")
    filled.proxy.fail("stall", "PATCH")
    source = ImageioSource(filled.address, timeout_s=0.3, sleep=filled.pauses.append)
    sink = ImageioSink(filled.address, reads_zero=True, timeout_s=0.3, sleep=filled.pauses.append)
    assert source.extents().covers(SIZE)
    sink.flush()
    assert filled.proxy.ordered == 0
    assert len(filled.pauses) == 2


SILENT: dict[str, tuple[Fault, str, str]] = {
    "extents": ("stall", "GET", "/extents"),
    "read": ("stall", "GET", ""),
    "write": ("stall", "PUT", ""),
    "flush": ("stall", "PATCH", ""),
    "pause before the next try": ("500", "GET", ""),
}


@pytest.mark.parametrize("what", SILENT)
def test_an_interrupt_does_not_wait_for_a_server_that_is_silent(filled: Behind, what: str) -> None:
    fault, method, path = SILENT[what]
    source: Source = ImageioSource(filled.address)
    sink: Sink = MemorySink(SIZE)
    if method != "GET":
        source, sink = MemorySource(CONTENT), ImageioSink(filled.address, reads_zero=True)
    elif path != "/extents":
        source.extents()
    filled.proxy.fail(fault, method, path=path, times=6 if fault == "500" else 1)

    def interrupt() -> None:
        while filled.proxy.ordered > (5 if fault == "500" else 0):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started_s = time.monotonic()
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            copy(source, sink)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    # Without the interrupt, a wait takes a minute or half an hour.
    assert time.monotonic() - started_s < 20
    # An interrupted start leaves an object without an identity, which is no thread.
    threads = [thread for thread in threading.enumerate() if thread.ident is not None]
    assert not [thread for thread in threads if thread.name.startswith("copy-")]


def test_an_interrupted_pause_ends_the_read(filled: Behind) -> None:
    def interrupted(pause: float) -> None:
        raise KeyboardInterrupt

    filled.proxy.fail("500", "GET")
    source = ImageioSource(filled.address, sleep=interrupted)
    with pytest.raises(KeyboardInterrupt), source.open_reader() as reader:
        reader.read_ranges([(0, 4096)], memoryview(bytearray(4096)))


def test_never_more_connections_than_the_server_offers(filled: Behind) -> None:
    source, sink = filled.source(), filled.sink()
    assert source.size == SIZE
    readers = source.max_readers
    assert readers == sink.max_writers == 8

    def read(at: int) -> bytes:
        return filled.read((at, 4096), source=source)

    with ThreadPoolExecutor(readers) as pool:
        assert b"".join(pool.map(read, range(0, MIB, 4096))) == CONTENT[:MIB]

    def write(at: int) -> None:
        with sink.open_writer() as writer:
            writer.write(at, memoryview(b"w" * 4096))

    with ThreadPoolExecutor(sink.max_writers) as pool:
        list(pool.map(write, range(0, MIB, 4096)))
    sink.flush()
    assert filled.proxy.most_open <= readers


@contextmanager
def network_of(host: Host, ticket: str) -> Iterator[tuple[ByteProxy, ImageioAddress]]:
    """Make a disk with CONTENT. Yield a proxy in front of the daemon's TLS port, and the disk's address there."""
    address = add_disk(host, ticket, SIZE)
    port = urlsplit(host.images_url).port
    assert port is not None
    try:
        with ImageioSink(address, reads_zero=True).open_writer() as writer:
            writer.write(0, memoryview(CONTENT))
        with ByteProxy(port) as proxy:
            yield proxy, replace(address, transfer_url=f"https://localhost:{proxy.port}/images/{ticket}")
    finally:
        remove_disk(host, ticket)


def _read_whole(source: ImageioSource) -> bytes:
    buffer = bytearray(SIZE)
    with source.open_reader() as reader:
        reader.read_ranges([(0, SIZE)], memoryview(buffer))
    return bytes(buffer)


def test_on_the_same_machine_only_one_connection_goes_through_the_network(host: Host) -> None:
    with network_of(host, "local") as (network, address):
        source, sink = ImageioSource(address), ImageioSink(address, reads_zero=True)
        assert source.extents().covers(SIZE)
        assert sink.max_writers == 8
        network.refusing = True
        assert [_read_whole(source) for _ in range(3)] == [CONTENT] * 3
        with sink.open_writer() as writer:
            writer.write(MIB, memoryview(CONTENT)[:MIB])
        assert _read_whole(source)[MIB : 2 * MIB] == CONTENT[:MIB]


def test_a_unix_socket_of_another_file_system_is_not_needed(host: Host) -> None:
    """A container has the host's IP address, but not its files."""
    with network_of(host, "container") as (_, address):
        source = ImageioSource(address)
        assert source.extents().covers(SIZE)
        with ImageioSession(address) as session:
            name = session.options().unix_socket
        assert name is not None
        socket, elsewhere = Path(name), Path(f"{name}.elsewhere")
        socket.rename(elsewhere)
        try:
            assert _read_whole(source) == CONTENT
        finally:
            elsewhere.rename(socket)
        assert _read_whole(source) == CONTENT


def test_only_the_first_connection_asks_for_the_options(filled: Behind) -> None:
    source, sink = filled.source(), filled.sink()
    assert source.extents().covers(SIZE)
    assert sink.max_writers == 8
    assert [_read_whole(source) for _ in range(3)] == [CONTENT] * 3
    with sink.open_writer() as writer:
        writer.write(0, memoryview(CONTENT)[:MIB])
    methods = [request.split()[0] for request in filled.proxy.requests]
    assert methods == ["OPTIONS", "GET", "OPTIONS", "GET", "GET", "GET", "PUT"]


def test_neighbours_share_a_request_and_far_ranges_do_not(filled: Behind) -> None:
    ranges = [(at, 4096) for at in range(0, 2 * MIB, 65536)] + [(4 * MIB, 4096)]
    source = filled.source()
    assert filled.read(*ranges, source=source) == b"".join(CONTENT[at : at + 4096] for at, _ in ranges)
    assert [request.split()[0] for request in filled.proxy.requests] == ["OPTIONS", "GET", "GET"]


class ClosingServer(BaseHTTPRequestHandler):
    """An HTTP/1.0 server, like some proxies: it closes the connection after each answer."""

    def do_OPTIONS(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(CONTENT[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_closes_each_connection_is_not_asked_ahead() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), ClosingServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        pauses: list[float] = []
        address = ImageioAddress(f"http://127.0.0.1:{server.server_port}/images/x")
        ranges = [(at, 300_000) for at in range(0, SIZE - 300_000, 700_000)]
        buffer = bytearray(300_000 * len(ranges))
        with ImageioSource(address, sleep=pauses.append).open_reader() as reader:
            reader.read_ranges(ranges, memoryview(buffer))
        server.shutdown()
        thread.join()
    assert buffer == b"".join(CONTENT[at : at + length] for at, length in ranges)
    assert pauses == []


def test_the_proxy_is_used_when_the_host_cannot_be_reached(filled: Behind) -> None:
    nowhere = "http://127.0.0.1:1/images/" + TICKET
    address = replace(filled.direct, transfer_url=nowhere, proxy_url=filled.address.transfer_url)
    source = ImageioSource(address)
    assert source.extents().covers(SIZE)
    assert filled.read((0, SIZE), source=source) == CONTENT
    ImageioSink(address, reads_zero=True).flush()


def test_a_wrong_certificate_is_final_and_names_the_option(remote_host: Host, host: Host) -> None:
    address = add_disk(remote_host, "tls", SIZE)
    try:
        for cafile in (host.cafile, None):
            with pytest.raises(ImageioError, match=r"certificate .* not trusted") as raised:
                ImageioSource(replace(address, cafile=cafile)).extents()
            assert "--cafile" in raised.value.advice
        insecure = ImageioSource(replace(address, cafile=None, secure=False))
        assert insecure.extents().covers(SIZE)
        with pytest.raises(ImageioError, match="No such file"):
            ImageioSource(replace(address, cafile=Path("/nonexistent/ca.pem"))).extents()
    finally:
        remove_disk(remote_host, "tls")


def test_a_disk_without_dirty_extents_needs_a_full_backup(behind: Behind) -> None:
    with pytest.raises(CheckpointGone, match="no list of changes since the checkpoint") as raised:
        ImageioSource(behind.direct, "dirty").extents()
    assert "full backup" in raised.value.advice


def test_what_a_guest_wrote_and_zeroed_since_the_checkpoint_is_data_and_zero(host: Host) -> None:
    name, size = "dirty", 4 * MIB
    host.create_volume(name, size, "cow")
    host.start_vm("vm", [name])
    try:
        with host.guest("vm", name) as guest:
            guest.write(0, b"a" * size)
            host.begin_backup("vm", "full", {name: None}, "checkpoint")
            host.end_backup("full")
            guest.write(MIB, b"b" * 65536)
            guest.zero(2 * MIB, 65536, unmap=True)
            guest.discard(3 * MIB, 65536)
        host.begin_backup("vm", "incremental", {name: "checkpoint"}, None)
        url = host.backup_export("incremental", name)
        host.add_ticket("dirty-ticket", nbd_url=url, size=size, ops=["read"], dirty=True)
        address = ImageioAddress(f"{host.images_url}/dirty-ticket", cafile=host.cafile)
        source = ImageioSource(address, "dirty")
        assert source.size == size
        assert [tuple(extent) for extent in source.extents()] == [
            (MIB, 65536, False),
            (2 * MIB, 65536, True),
            (3 * MIB, 65536, True),
        ]
        host.remove_ticket("dirty-ticket")
        host.end_backup("incremental")
    finally:
        host.stop_vm("vm")
        host.delete_volume(name)


@pytest.mark.parametrize(
    "url", ["", "ftp://host/images/x", "https://", "https://host:99999/x", "https://[/x"]
)
def test_a_transfer_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ImageioError, match="transfer URL"):
        ImageioAddress(url)


def test_an_address_does_not_show_its_ticket() -> None:
    address = ImageioAddress(f"https://host:54322/images/{TICKET}", f"https://engine:54323/images/{TICKET}")
    assert TICKET not in repr(address)
    assert address.host == "host:54322"
