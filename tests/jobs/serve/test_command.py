# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr serve` as people and scripts use it."""

from __future__ import annotations

import itertools
import json
import random
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySource
from pitr.errors import UsageError
from pitr.extents import ExtentMap
from pitr.jobs.serve.over_nbd import export_names, serving
from pitr.model import Record
from pitr.nbd.client import parse_url
from pitr.nbd.protocol import READ
from pitr.nbd.server.uris import uri
from pitr.repository import Repository
from pitr.repository.stream_sink import ExternalBlob
from pitr.system.process import run
from pitr.system.sockets import reachable_name, tcp_listener, unix_listener
from pitr.units import parse_size
from tests.support.pitr import Pitr, ended, wait_until
from tests.support.points import Writer, backup_of, blob_path, fake_stream, meta_of, new_stream, source
from tests.support.serving import MIB, RawClient, read, store_chain

pytestmark = pytest.mark.usefixtures("quick_disk")

AT_THE_END = "2030-01-01T00:00Z"
_ALL = "0.0.0.0"  # noqa: S104 - that this is said is what is tested


@contextmanager
def serving_process(
    command: Pitr, *options: str | Path
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A running `pitr serve`, and its document, the first line of its output."""
    with command.process("serve", "--at", AT_THE_END, *options, "--output", "json") as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["serve"]


def test_the_document_says_where_each_disk_is(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A", "64k:B 1k:0")
    place = tmp_path / "so cket"
    with serving_process(command, "--socket", place) as (process, document):
        assert document["backup_id"] == backup.backup_id
        assert document["point"] == "2020-06-29T22:00:00Z" and document["age_s"] > 0
        assert document["next_point"] is None
        first, second = document["disks"]
        assert second == {
            "disk_id": backup.streams[1].disk_id,
            "name": "disk1",
            "export": "disk1",
            "size": 65 * 1024,
            "uri": f"nbd+unix:///disk1?socket={tmp_path}/so%20cket",
            "overlay": None,
        }
        assert place.stat().st_mode & 0o777 == 0o600
        assert read(first["uri"], 0, 65536) == b"A" * 65536
        assert run(["nbdinfo", "--size", second["uri"]]).strip() == str(65 * 1024)
        process.terminate()
        result = ended(process)
    assert (result.code, result.stdout, result.stderr) == (0, "", "")
    assert not place.exists()


def test_the_uri_is_told_on_standard_error(command: Pitr, repository: Repository) -> None:
    store_chain(repository)
    result = command("serve", "web", "--at", AT_THE_END, "--run", "exit 0")
    first, second = result.stderr.splitlines()
    assert first.startswith("pitr: VM web: the point of 2020-06-30 ")
    found = re.fullmatch(r"pitr: disk disk0 \(10 MiB\): nbd\+unix:///disk0\?socket=(/.*/nbd)", second)
    assert found is not None and result.stdout == ""
    # The socket was in its own folder, which was removed with it.
    assert not Path(found[1]).parent.exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_while_clients_read(
    command: Pitr, repository: Repository, tmp_path: Path, signum: signal.Signals
) -> None:
    store_chain(repository)
    place = tmp_path / "socket"
    with serving_process(command, "--socket", place) as (process, document):
        uri = document["disks"][0]["uri"]
        with RawClient(uri).go() as stuck:
            for _ in range(30):
                stuck.request(READ, 0, 10 * MIB)
            assert stuck.receive(1000)
            process.send_signal(signum)
            result = ended(process)
    assert (result.code, result.stderr) == (0, "")
    assert not place.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serve", "--at", AT_THE_END), "disk disk0 (10 MiB): nbd+unix:///disk0?socket="),
        (("catalog", "serve", "--port", "0"), "the catalog is at http://127.0.0.1:"),
        (("gateway", "--port", "0"), "the token is in "),
    ],
)
def test_all_servers_say_that_they_are_ready_and_end_in_the_same_way(
    command: Pitr, repository: Repository, words: tuple[str, ...], said: str
) -> None:
    store_chain(repository)
    with command.process(*words) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        while not lines[-1].endswith("serving until Ctrl-C or SIGTERM\n"):
            assert lines[-1], lines
            lines.append(process.stderr.readline())
        assert lines[-2].startswith(f"pitr: {said}")
        process.terminate()
        result = ended(process)
    assert (result.code, result.stdout, result.stderr) == (0, "", "")


def test_a_command_gets_the_uris_and_gives_its_exit_code(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    _, content = store_chain(repository)
    out = tmp_path / "copy"
    command("serve", "--at", AT_THE_END, "--run", f'nbdcopy "$NBD_URI" {out}')
    assert out.read_bytes() == content
    for program, code in (("exit 0", 0), ("exit 9", 9), ("kill -KILL $$", 128 + 9), ("no-such-program", 127)):
        assert command.run("serve", "--at", AT_THE_END, "--run", program).code == code
    two_disks = Writer(repository).add("64k:A", "64k:B")
    command("serve", "--at", AT_THE_END, "--point", "no", "--run", f"touch {tmp_path}/ran", code=2)
    assert not (tmp_path / "ran").exists()
    program = f"for uri in $NBD_URIS; do nbdinfo --size $uri; done > {tmp_path}/sizes"
    command("serve", "--point", two_disks.backup_id, "--run", program)
    assert (tmp_path / "sizes").read_text().split() == ["65536", "65536"]


def test_standard_output_is_the_commands(command: Pitr, repository: Repository) -> None:
    store_chain(repository)
    options = ("--at", AT_THE_END, "--run", "echo $NBD_URI$NBD_SOCKET", "--output", "json")
    with command.process("serve", *options) as process:
        result = ended(process)
    document = json.loads(result.stderr)
    uri = document["serve"]["disks"][0]["uri"]
    assert result.stdout == f"{uri}{uri.partition('socket=')[2]}\n"


def test_a_signal_is_passed_on_to_the_command(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    store_chain(repository)
    program = f"trap 'echo told > {tmp_path}/told; exit 0' TERM; touch {tmp_path}/runs; while :; do sleep 0.05; done"
    with command.process("serve", "--at", AT_THE_END, "--run", program) as process:
        wait_until((tmp_path / "runs").exists, "the command runs")
        process.terminate()
        result = ended(process)
    assert result.code == 128 + signal.SIGTERM
    assert (tmp_path / "told").read_text() == "told\n"


def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    store_chain(repository)
    place = tmp_path / "socket"
    with serving_process(command, "--socket", place) as (process, document):
        refused = command("serve", "--at", AT_THE_END, "--socket", place, "--run", "exit 0", code=5)
        assert refused.complaint.endswith("Stop it, or name another path with --socket.")
        assert read(document["disks"][0]["uri"], 0, 1) == b"A"
        process.kill()
        ended(process)
    assert place.is_socket()
    command("serve", "--at", AT_THE_END, "--socket", place, "--run", f'nbdinfo "$NBD_URI" > {tmp_path}/told')
    assert not place.exists()


def test_other_files_are_never_touched(command: Pitr, repository: Repository, tmp_path: Path) -> None:
    store_chain(repository)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        refused = command("serve", "--at", AT_THE_END, "--socket", tmp_path / name, code=2)
        assert "exists and is not a socket" in refused.complaint
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "link").is_symlink()
    assert (
        "cannot listen on" in command("serve", "--at", AT_THE_END, "--socket", "/nowhere/s", code=1).complaint
    )
    long = tmp_path / ("x" * 100)
    assert "longer than 107 bytes" in command("serve", "--at", AT_THE_END, "--socket", long, code=2).complaint


def test_a_tcp_port_is_local_unless_it_is_asked_for(command: Pitr, repository: Repository) -> None:
    _, content = store_chain(repository)
    with serving_process(command, "--port", "0") as (process, document):
        uri = document["disks"][0]["uri"]
        found = re.fullmatch(r"nbd://127\.0\.0\.1:(\d+)/disk0", uri)
        assert found is not None
        assert read(uri, 0, len(content)) == content
        run(["nbdcopy", uri, "null:"])
        taken = command("serve", "--at", AT_THE_END, "--port", found[1], code=5)
        assert f"another program listens on port {found[1]} of 127.0.0.1 already" in taken.complaint
        process.terminate()
        assert "warning" not in ended(process).stderr
    open_to_all = command("serve", "--at", AT_THE_END, "--port", "0", "--host", _ALL, "--run", "exit 0")
    assert "this NBD server has neither encryption nor authentication" in open_to_all.stderr


def test_without_descriptors_clients_wait_and_it_is_told_once(command: Pitr, repository: Repository) -> None:
    store_chain(repository)
    with serving_process(command) as (process, document):
        link = document["disks"][0]["uri"]
        address, _ = parse_url(link)
        assert isinstance(address, str)
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        used = _descriptors(process.pid)
        # A served client shows that the server waits for the next one.
        assert read(link, 0, 1) == b"A"
        wait_until(lambda: _descriptors(process.pid) == used, "the server has taken leave of it")
        next_one = next(number for number in itertools.count() if number not in used)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (next_one, before[1]))
        # The system has set a descriptor aside for one client already.
        with RawClient(link), socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(18)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
            client.settimeout(30)
            assert len(client.recv(18)) == 18
        assert read(link, 0, 1) == b"A"
        process.terminate()
        result = ended(process)
    assert result.code == 0
    assert result.stderr.count("Too many open files") == 1 and result.stderr.count("\n") == 1


def _descriptors(pid: int) -> set[int]:
    return {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 2),
        (("--at", AT_THE_END, "--point", "1234"), 2),
        (("--at", AT_THE_END, "--socket", "s", "--port", "1"), 2),
        (("--at", AT_THE_END, "--host", "127.0.0.1"), 2),
        (("--at", AT_THE_END, "--port", "70000"), 2),
        (("--at", AT_THE_END, "--port", "0", "--host", "no.such.host.invalid"), 2),
        (("--at", AT_THE_END, "--cache-size", "much"), 2),
        (("--at", AT_THE_END, "--cache-size", "1023k"), 2),
        (("--at", AT_THE_END, "--cache-size", "0"), 2),
        (("--at", AT_THE_END, "--cache-size", "64t"), 2),
        (("--at", AT_THE_END, "--cache-dir-size", "1g"), 2),
        (("--at", AT_THE_END, "--cache-dir", "cache", "--cache-dir-size", "15m"), 2),
        (("--at", AT_THE_END, "--cache-dir", "/dev/null"), 2),
        (("--at", AT_THE_END, "--cache-size", "999999999999999999t"), 2),
        (("--at", "1999-01-01T00:00Z"), 4),
        (("--at", AT_THE_END, "--disk", "other"), 4),
        (("--point", "12345678"), 4),
        (("db1", "--at", AT_THE_END), 4),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    command: Pitr, repository: Repository, options: tuple[str, ...], code: int
) -> None:
    store_chain(repository)
    result = command("serve", *options, "--output", "json", code=code)
    assert result.complaint and result.error["message"]


def test_a_damaged_chain_is_not_served(command: Pitr, repository: Repository) -> None:
    backup, _ = store_chain(repository)
    blob_path(repository, backup.streams[0]).unlink()
    command("serve", "--at", AT_THE_END, "--run", "exit 0", code=3)


class Tape(ExternalBlob):
    compression: Literal["zstd", "none"] = "zstd"

    def write(self, data: bytes) -> object:
        return len(data)

    def finish(self) -> None:
        pass


def test_a_blob_that_is_elsewhere_cannot_be_served(command: Pitr, repository: Repository) -> None:
    new = new_stream()
    disk = source("1m:A")
    with repository.new_stream(new, disk.size, meta_of(new, disk.size), level=1, external=Tape()) as sink:
        copy(disk, sink)
        stream = sink.stream
    repository.commit(Record(backup_of([stream], backup_id=new.backup_id), None))
    refused = command("serve", "--at", AT_THE_END, "--run", "exit 0", code=2)
    assert "cannot serve disk system" in refused.complaint and "--get-command" in refused.complaint


def test_memory_stays_within_the_cache(command: Pitr, repository: Repository) -> None:
    content = random.Random(2).randbytes(96 * MIB)
    new = new_stream()
    disk = MemorySource(bytearray(content), ExtentMap.of([(0, len(content), False)]))
    with repository.new_stream(new, disk.size, meta_of(new, disk.size), level=1) as sink:
        copy(disk, sink)
        stream = sink.stream
    repository.commit(Record(backup_of([stream], backup_id=new.backup_id), None))
    grown = {}
    for size in ("8m", "256m"):
        with serving_process(command, "--cache-size", size) as (process, document):
            uri = document["disks"][0]["uri"]
            before = _memory(process.pid, "VmRSS")
            run(["nbdcopy", "--connections=4", uri, "null:"])
            grown[size] = _memory(process.pid, "VmHWM") - before
            assert read(uri, 70 * MIB, 1000) == content[70 * MIB : 70 * MIB + 1000]
    assert grown["8m"] < 40 * MIB
    # It would be seen.
    assert grown["256m"] > 80 * MIB


def test_decompressed_data_stays_for_later_commands(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    _, content = store_chain(repository)
    cache = tmp_path / "new" / "cache"
    for is_filled in (False, True):
        if is_filled:
            # pitr does not read these frames again: it could not.
            for backup in repository.catalog.points():
                blob = blob_path(repository, backup.streams[0])
                blob.write_bytes(bytes(blob.stat().st_size))
        with serving_process(command, "--cache-dir", cache, "--cache-dir-size", "1g") as (process, document):
            uri = document["disks"][0]["uri"]
            whole = 10 * MIB
            assert read(uri, 3 * MIB, 100_000) == content[3 * MIB : 3 * MIB + 100_000]
            assert read(uri, whole - MIB, MIB) == content[whole - MIB : whole]
            assert not is_filled or read(uri, whole - 5000, 4096) == content[whole - 5000 : whole - 904]
            process.terminate()
            assert ended(process).stderr == ""
    assert cache.stat().st_mode & 0o777 == 0o700


def _memory(pid: int, what: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024


def test_names_of_exports_lead_to_one_disk_each() -> None:
    names = ("data", "data", "a/b c\u00e9", "", "x\x1b[31m", "y" * 5000)
    streams = [fake_stream(number, name=name) for number, name in enumerate(names)]
    # The name of a disk is the id of another one.
    streams.append(fake_stream(6, name=streams[0].disk_id))
    found = export_names(streams)
    ids = [(stream.disk_id,) for stream in streams]
    assert list(found.values()) == [
        *ids[:2],
        ("a/b c\u00e9", *ids[2]),
        *ids[3:],
    ]
    alone = replace(streams[2], name="only")
    assert export_names([alone]) == {alone.disk_id: ("only", alone.disk_id, "")}


def test_a_strange_name_is_quoted_in_its_uri(repository: Repository, tmp_path: Path) -> None:
    backup = Writer(repository).add("64k:A")
    stream = replace(backup.streams[0], name="a/b c\u00e9?&#%+")
    # Only the reported name differs from the stored one.
    with (
        unix_listener(tmp_path / "s ?&#%+\u00e9") as listener,
        serving(repository, backup, [backup.streams[0]], listener) as _,
    ):
        link = uri(listener, export_names([stream])[stream.disk_id][0])
        assert link.startswith("nbd+unix:///a%2Fb%20c%C3%A9%3F%26%23%25%2B?socket=")
        default = link.replace("a%2Fb%20c%C3%A9%3F%26%23%25%2B", "")
        assert run(["nbdinfo", "--size", default]).strip() == "65536"
        assert read(default, 0, 10) == b"A" * 10


def test_uris_of_tcp_ports() -> None:
    with tcp_listener("::1", 0) as listener:
        assert re.fullmatch(r"nbd://\[::1\]:\d+/x", uri(listener, "x"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tcp_listener(_ALL, port) as listener:
        assert uri(listener, "") == f"nbd://{reachable_name(_ALL)}:{port}/"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("4k", 4096), ("256m", 256 * MIB), ("1 GiB", 1024 * MIB), ("2Tb", 2 << 40)],
)
def test_sizes_are_typed_with_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5g", "1x", "m", "1e9", "\u0661"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)
