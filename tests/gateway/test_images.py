# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of the engine through the gateway, read and written with curl."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabDisk, LabVM
from pitr.ovirt import engine
from tests.support.gateway import CUT_OFF, Gateway, running
from tests.support.independent import apply_sparse, unzstd
from tests.support.lab import assert_disk_is, assert_same, nothing_open
from tests.support.pitr import Pitr, wait_until
from tests.support.points_over_http import backup, connected

MiB = 1 << 20


def oracle(lab: Lab, disk: LabDisk, path: Path) -> Path:
    lab.disk(disk.id).copy_content(path)
    return path


def full_of(lab: Lab, size: int, folder: Path, *, seed: int = 0) -> tuple[LabDisk, Path]:
    """A disk that belongs to no VM, full of incompressible data, and its content."""
    content = folder / f"content-{seed}"
    content.write_bytes(random.Random(seed).randbytes(size))
    return lab.add_disk(f"full-{seed}", size, content=content), content


def stream_of(gateway: Gateway, disk_id: str, path: Path, *, compress: str = "none") -> Path:
    path.write_bytes(gateway.get(f"/images/{disk_id}?compress={compress}").body)
    return path


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_a_chain_of_a_running_vm_comes_out_through_curl_and_is_restored(
    lab: Lab, pitr: Pitr, gateway: Gateway, vm: LabVM, tmp_path: Path, compress: str
) -> None:
    disk = vm.disks[0]
    applied = bytearray()
    checkpoint = None
    points: list[Any] = []
    for number in range(2):
        if number:
            with disk.guest() as guest:
                guest.write(100_000, random.Random(2).randbytes(200_000))
                guest.zero(9 * MiB, 65536, unmap=False)
                guest.discard(MiB, 131072)
        expected = oracle(lab, disk, tmp_path / f"oracle{number}")
        context = "dirty" if number else "zero"
        with backup(lab, vm, checkpoint) as (connection, backup_id, checkpoint):
            # With the id of a disk, the gateway starts a transfer…
            by_disk = gateway.get(
                f"/images/{disk.id}?context={context}&backup={backup_id}&compress={compress}&format=sparse"
            )
            assert lab.open_transfers() == []
            # …and with the id of a transfer it uses that transfer, as often as you ask.
            with engine.start_download(connection, disk.id, backup_id=backup_id) as transfer:
                for _ in range(2):
                    by_transfer = gateway.get(f"/images/{transfer.id}?context={context}&compress={compress}")
                    assert lab.open_transfers() == [transfer.id]
        plain = [unzstd(one.body) if compress == "zstd" else one.body for one in (by_disk, by_transfer)]
        again = bytearray(applied)
        meta, extents = apply_sparse(plain[0], applied)
        assert apply_sparse(plain[1], again)[1] == extents
        assert applied == again == expected.read_bytes()
        assert meta["incremental"] is bool(number) and meta["disk-name"] == "d0"
        assert meta["backup-id"] == backup_id
        if number:
            assert {kind for kind, *_ in extents} == {"data", "zero"}
        (tmp_path / f"stream{number}").write_bytes(by_disk.body)
        onto = ("--onto", points[-1]["backup_id"]) if points else ()
        imported = pitr.json("import", tmp_path / f"stream{number}", "--vm", vm.name, *onto)
        points += imported["imported"]
        pitr.restore_to_file(points[-1], tmp_path / f"restored{number}")
        assert_same(tmp_path / f"restored{number}", expected)
    pitr("restore", "--from", tmp_path / "stream0", "--to-file", tmp_path / "direct")
    assert_same(tmp_path / "direct", tmp_path / "oracle0")


@pytest.mark.parametrize(("compress", "chunked"), [("none", True), ("zstd", False)])
def test_a_stream_goes_back_to_a_new_disk(
    lab: Lab, gateway: Gateway, tmp_path: Path, compress: str, chunked: bool
) -> None:
    disk, content = full_of(lab, 5 * MiB + 512, tmp_path)
    stream = stream_of(gateway, disk.id, tmp_path / "stream", compress=compress)
    new = lab.add_disk("new", disk.size)
    done = gateway.put(f"/images/{new.id}?new=true", stream, chunked=chunked).json["restored"]
    assert done["disk_id"] == new.id and done["size"] == disk.size
    assert done["bytes_written"] + done["bytes_zeroed"] + done["bytes_skipped"] == disk.size
    assert lab.open_transfers() == []
    assert_disk_is(lab, new.id, content, tmp_path)
    # A larger new disk reads as zero behind the end of the stream.
    larger = lab.add_disk("larger", 6 * MiB)
    gateway.put(f"/images/{larger.id}?new=true", stream)
    with content.open("r+b") as file:
        file.truncate(6 * MiB)
    assert_disk_is(lab, larger.id, content, tmp_path)


def test_a_stream_goes_to_an_upload_that_somebody_else_has_started(
    lab: Lab, gateway: Gateway, vm: LabVM, tmp_path: Path
) -> None:
    """Write a full and then an incremental to a larger disk that held other data."""
    disk = vm.disks[0]
    streams = []
    checkpoint = None
    for number in range(2):
        if number:
            with disk.guest() as guest:
                guest.write(2 * MiB, b"new" * 50_000)
                guest.zero(9 * MiB, 65536, unmap=False)
        expected = oracle(lab, disk, tmp_path / "oracle") if number else None
        with backup(lab, vm, checkpoint) as (_, backup_id, checkpoint):
            context = "dirty" if number else "zero"
            answer = gateway.get(f"/images/{disk.id}?context={context}&backup={backup_id}")
        streams.append(tmp_path / f"stream{number}")
        streams[-1].write_bytes(answer.body)
    assert expected is not None
    target, _ = full_of(lab, 14 * MiB, tmp_path)
    with connected(lab) as connection, engine.start_upload(connection, target.id) as transfer:
        path = f"/images/{transfer.id}"
        refused = gateway.put(path, streams[1], status=422)
        assert "incremental" in refused.error["message"]
        done = gateway.put(path, streams[0]).json["restored"]
        assert done["bytes_written"] + done["bytes_zeroed"] == 14 * MiB and done["bytes_skipped"] == 0
        assert lab.open_transfers() == [transfer.id]
        gateway.put(f"{path}?incremental=true", streams[1])
        # The id names an upload, not a new disk.
        assert gateway.get(path, status=409).error["type"] == "Conflict"
        gateway.put(f"{path}?new=true", streams[0], status=422)
    with expected.open("r+b") as file:
        file.truncate(14 * MiB)
    assert_disk_is(lab, target.id, expected, tmp_path)


def test_a_disk_that_holds_something_is_not_touched(lab: Lab, gateway: Gateway, tmp_path: Path) -> None:
    disk, content = full_of(lab, 24 * MiB, tmp_path)
    stream = stream_of(gateway, disk.id, tmp_path / "stream")
    refused = gateway.put(f"/images/{disk.id}", stream, status=409).error
    assert "would remove it" in refused["message"] and "new=true" in refused["advice"]
    assert "not new" in gateway.put(f"/images/{disk.id}?new=true", stream, status=409).error["message"]
    smaller = lab.add_disk("smaller", MiB // 2)
    assert (
        "this disk has only"
        in gateway.put(f"/images/{smaller.id}?new=true", stream, status=409).error["message"]
    )
    gateway.put(f"/images/{smaller.id}?new=true&incremental=true", stream, status=422)
    with connected(lab) as connection, engine.start_download(connection, disk.id) as transfer:
        gateway.put(f"/images/{transfer.id}", stream, status=409)
        assert gateway.get(f"/images/{transfer.id}?backup=x", status=422)
    assert lab.disk(smaller.id).status == "ok"
    assert_disk_is(lab, disk.id, content, tmp_path)


def _hostile(stream: bytes) -> dict[str, bytes]:
    header = len(stream) - len(stream.partition(b"data ")[1] + stream.partition(b"data ")[2])
    data = stream[header : header + 40]
    start, length = (int(word, 16) for word in data.split()[1:])
    end = header + 40 + length + 2
    return {
        "cut": stream[: len(stream) // 2],
        "without its end": stream[:-40],
        "empty": b"",
        "no stream": b"GET / HTTP/1.1\r\n" * 100,
        "twice the same extent": stream[:end] + stream[header:],
        "too long": stream[:header] + b"data %016x %016x\r\n" % (start, 1 << 50) + stream[header + 40 :],
        "a hole": stream[:header] + b"data %016x %016x\r\n" % (start + 512, length) + stream[header + 40 :],
        "more behind the end": stream + b"x",
        "broken zstd": b"\x28\xb5\x2f\xfd" + bytes(range(256)) * 20,
        "a meta of a terabyte": b"meta %016x %016x\r\n" % (0, 1 << 40) + bytes(4096),
    }


def test_streams_that_are_none_are_refused_and_the_upload_is_cancelled(
    lab: Lab, gateway: Gateway, tmp_path: Path
) -> None:
    disk, _ = full_of(lab, 3 * MiB, tmp_path)
    stream = stream_of(gateway, disk.id, tmp_path / "stream").read_bytes()
    untouched, content = full_of(lab, 3 * MiB, tmp_path, seed=1)
    damaged = tmp_path / "damaged"
    began = {"cut", "without its end", "twice the same extent", "too long", "more behind the end"}
    for what, body in _hostile(stream).items():
        damaged.write_bytes(body)
        new = lab.add_disk("new", disk.size)
        error = gateway.put(f"/images/{new.id}?new=true", damaged, status=400).error
        assert error["type"] == "FormatError", what
        assert lab.open_transfers() == [], what
        # The engine removes a disk whose upload has begun.
        gone = new.id not in {one.id for one in lab.disks}
        assert gone == (new.id in error["advice"]), what
        assert gone or what not in began, what
    # The client that started the upload ends it.
    with connected(lab) as connection, ExitStack() as stack:
        upload = engine.start_upload(connection, untouched.id)
        transfer = stack.enter_context(upload)
        damaged.write_bytes(stream[:1000])
        gateway.put(f"/images/{transfer.id}", damaged, status=400)
        assert lab.open_transfers() == [transfer.id]
        damaged.write_bytes(stream)
        gateway.put(f"/images/{transfer.id}", damaged)
    content.write_bytes((tmp_path / "content-0").read_bytes())
    assert_disk_is(lab, untouched.id, content, tmp_path)


def test_a_client_that_goes_away_ends_the_transfer(lab: Lab, gateway: Gateway, tmp_path: Path) -> None:
    disk, _ = full_of(lab, 80 * MiB, tmp_path)
    for by_transfer in (False, True):
        with ExitStack() as stack:
            path = f"/images/{disk.id}"
            if by_transfer:
                connection = stack.enter_context(connected(lab))
                transfer = stack.enter_context(engine.start_download(connection, disk.id))
                path = f"/images/{transfer.id}"
            with subprocess.Popen(
                gateway.command(path, "--limit-rate", "1M"), stdout=subprocess.PIPE
            ) as client:
                assert client.stdout is not None and client.stdout.read(65536)
                opened = lab.open_transfers()
                assert len(opened) == 1
                client.kill()
            if by_transfer:
                # The transfer stays usable.
                said = f"{path}: the client has gone"
                wait_until(lambda said=said: said in gateway.log, "said")
                assert lab.open_transfers() == opened
                assert gateway.get(path).body.endswith(b"stop %016x %016x\r\n" % (0, 0))
        wait_until(lambda: lab.open_transfers() == [], "the transfer ended")


def test_a_client_that_goes_away_while_it_sends_ends_the_upload(
    lab: Lab, gateway: Gateway, tmp_path: Path
) -> None:
    disk, _ = full_of(lab, 40 * MiB, tmp_path)
    stream = stream_of(gateway, disk.id, tmp_path / "stream")
    new = lab.add_disk("new", disk.size)
    path = f"/images/{new.id}?new=true"
    with subprocess.Popen(gateway.command(path, "-T", stream, "--limit-rate", "4M")) as client:
        wait_until(lambda: lab.open_transfers() != [], "the upload began")
        time.sleep(0.3)
        client.kill()
    wait_until(lambda: nothing_open(lab), "the upload ended")
    wait_until(lambda: new.id not in {one.id for one in lab.disks}, "the new disk is gone")


def test_what_fails_in_the_middle_is_seen_by_curl_and_by_every_reader(
    lab: Lab, pitr: Pitr, gateway: Gateway, tmp_path: Path
) -> None:
    # More than the gateway and the sockets hold: the rest is read after the transfer has ended.
    disk, _ = full_of(lab, 128 * MiB, tmp_path)
    part = tmp_path / "part"
    with connected(lab) as connection, ExitStack() as stack:
        transfer = stack.enter_context(engine.start_download(connection, disk.id))
        with subprocess.Popen(
            gateway.command(f"/images/{transfer.id}", "--limit-rate", "5M", "-o", part)
        ) as client:
            wait_until(lambda: part.exists() and part.stat().st_size > 0, "the first bytes")
            transfer.end_early()
            assert client.wait() == CUT_OFF
    assert "stop" not in part.read_bytes()[-1000:].decode("latin-1")
    pitr("restore", "--from", part, "--to-file", tmp_path / "restored", code=1)
    assert not (tmp_path / "restored").exists()


#: A gateway that keeps transfers alive, with a shorter interval.
QUICK = (
    "from functools import partial; import pitr.gateway.images as i; "
    "i.kept_alive = partial(i.kept_alive, interval_s={interval}); i._INACTIVITY_TIMEOUT_S = 2"
)


def test_a_slow_client_does_not_lose_the_transfer(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    """The engine ends a transfer that is idle for 2 s; each client takes 4 s for its bytes.

    With a gateway that does not keep its transfers alive, the engine ends them.
    """
    disks = [full_of(lab, 4 * MiB, tmp_path, seed=seed)[0] for seed in range(2)]
    new, lost = (lab.add_disk("new", 4 * MiB) for _ in range(2))
    with (
        running(pitr.environment, tmp_path / "alive", patched=QUICK.format(interval=0.3)) as alive,
        running(pitr.environment, tmp_path / "idle", patched=QUICK.format(interval=60)) as idle,
    ):
        stream = stream_of(alive, disks[0].id, tmp_path / "stream")
        slow = ("--limit-rate", "1M", "-f", "-o")
        clients = [
            subprocess.Popen(
                [*gateway.command(path, *slow, tmp_path / name, *options)], stderr=subprocess.DEVNULL
            )
            for gateway, path, name, options in (
                (alive, f"/images/{disks[1].id}", "slow", ()),
                (alive, f"/images/{new.id}?new=true", "answer", ("-T", stream)),
                (idle, f"/images/{lost.id}?new=true", "none", ("-T", stream)),
            )
        ]
        assert [client.wait() for client in clients] == [0, 0, 22]
        assert "refuses to write" in idle.log and "No such ticket" in idle.log
    applied = bytearray()
    apply_sparse((tmp_path / "slow").read_bytes(), applied)
    assert applied == (tmp_path / "content-1").read_bytes()
    assert_disk_is(lab, new.id, tmp_path / "content-0", tmp_path)
    assert lost.id not in {one.id for one in lab.disks}


def _stalling(gateway: Gateway, path: str) -> socket.socket:
    """A client that sends a request and reads nothing of the answer."""
    host, _, port = gateway.url.rpartition("/")[2].partition(":")
    client = socket.create_connection((host, int(port)))
    token = gateway.token_file.read_text().strip()
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return client


def test_a_client_that_takes_nothing_is_given_up_and_does_not_hold_up_others(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    disk, _ = full_of(lab, 64 * MiB, tmp_path)
    other, content = full_of(lab, MiB, tmp_path, seed=1)
    options = ("--max-requests", "2", "--client-timeout", "1.5")
    with (
        running(pitr.environment, tmp_path / "run", *options) as gateway,
        _stalling(gateway, f"/images/{disk.id}"),
    ):
        wait_until(lambda: len(lab.open_transfers()) == 1, "the stream began")
        applied = bytearray()
        apply_sparse(gateway.get(f"/images/{other.id}").body, applied)
        assert applied == content.read_bytes()
        wait_until(lambda: "has taken nothing for 2 s" in gateway.log, "given up")
        wait_until(lambda: lab.open_transfers() == [], "the transfer ended")


def test_no_more_streams_than_asked_for_are_under_way(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    disk, _ = full_of(lab, 64 * MiB, tmp_path)
    other, _ = full_of(lab, MiB, tmp_path, seed=1)
    with running(pitr.environment, tmp_path / "run", "--max-requests", "1") as gateway:
        with _stalling(gateway, f"/images/{disk.id}"):
            wait_until(lambda: len(lab.open_transfers()) == 1, "the stream began")
            refused = gateway.get(f"/images/{other.id}", status=503)
            assert refused.error["type"] == "TooManyRequests" and refused.headers["retry-after"]
            stream = tmp_path / "stream"
            stream.write_bytes(b"x")
            gateway.put(f"/images/{other.id}", stream, status=503)
            # Requests that are not streams are answered.
            gateway.get("/points")
        wait_until(lambda: lab.open_transfers() == [], "the transfer ended")
        wait_until(lambda: gateway.curl(f"/images/{other.id}").status == 200, "free again")


def test_a_signal_ends_streams_and_transfers(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    disk, _ = full_of(lab, 64 * MiB, tmp_path)
    with running(pitr.environment, tmp_path / "run") as gateway:
        token_file = gateway.token_file
        assert token_file.stat().st_mode & 0o777 == 0o600
        command = gateway.command(f"/images/{disk.id}")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            # The client reads nothing more until the signal was sent.
            assert client.stdout is not None and client.stdout.read(65536)
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: lab.open_transfers() == [], "the transfer ended")
            assert len(client.stdout.read()) < disk.size - MiB
            assert client.wait() == CUT_OFF
            started = time.monotonic()
            gateway.process.wait()
            assert time.monotonic() - started < 20
    assert not token_file.exists()


def test_memory_does_not_grow_with_the_disk(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(random.Random(1).randbytes(160 * MiB))
    disk = lab.add_disk("large", 1 << 30, content=content)
    with running(pitr.environment, tmp_path / "run") as gateway:
        before = gateway.memory()
        stream = tmp_path / "stream"
        assert gateway.get(f"/images/{disk.id}", "-o", stream)
        assert stream.stat().st_size > 160 * MiB
        new = lab.add_disk("new", disk.size)
        gateway.put(f"/images/{new.id}?new=true", stream, chunked=False)
        assert gateway.memory() - before < 120 * MiB


def test_an_engine_that_is_gone_is_a_bad_gateway(pitr: Pitr, tmp_path: Path) -> None:
    with Lab(phase_lag_s=0.01) as other:
        disk = other.add_disk("disk", MiB)
        cafile = tmp_path / "ca.pem"
        cafile.write_bytes(other.cafile.read_bytes())
        environment = {**pitr.environment, **other.environment(), "PITR_CAFILE": str(cafile)}
        quick = "import pitr.ovirt.engine.connection as c; c.FIRST_PAUSE_S = 0.01; "
        quick += "c.Engine.__init__.__kwdefaults__['retry_pause_s'] = 0.01"
        with running(environment, tmp_path / "run", patched=quick) as gateway:
            gateway.get(f"/images/{disk.id}")
            other.close()
            error = gateway.get(f"/images/{disk.id}", status=502).error
            assert "no answer from the engine" in error["message"] and error["advice"]
            gateway.get("/points")
