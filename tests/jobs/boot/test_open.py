# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr open` boots a point for a person, keeps or drops what the guest writes, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pitr.model import Backup
from pitr.repository import Repository
from pitr.system.process import run
from tests.support import debian_guest, tiny_guests
from tests.support.lab import MiB
from tests.support.pitr import PATIENCE_S, Pitr, ended, wait_until
from tests.support.points_of_images import store_states

pytestmark = pytest.mark.skipif(
    bool(debian_guest.missing_qemu()), reason=f"not installed: {', '.join(debian_guest.missing_qemu())}"
)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


def _store(repository: Repository, disk: bytes) -> Backup:
    (backup,) = store_states(repository, [[disk.ljust(MiB, b"\0")]])
    return backup


@contextmanager
def _opened(command: Pitr, *options: str | Path) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Open the newest point without a window; yield the process and the document that it announces."""
    with command.process("open", "--at", "now", "--headless", "--output", "json", *options) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["open"]


def _is_vnc(address: Any) -> bool:
    with socket.create_connection((address["host"], address["port"]), PATIENCE_S) as viewer:
        return viewer.recv(4) == b"RFB "


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_viewer_on_this_machine_sees_it_until_a_signal(
    command: Pitr, repository: Repository, scratch: Path, signum: signal.Signals
) -> None:
    backup = _store(repository, tiny_guests.showing("hello"))
    running = command.with_environment(TMPDIR=str(scratch))
    with _opened(running, "--vnc", "0") as (process, document):
        assert document["backup_id"] == backup.backup_id
        assert document["vnc"]["host"] == "127.0.0.1"
        assert _is_vnc(document["vnc"])
        guests = _children(process.pid)
        assert len(guests) == 1 and "-nic none" in guests[0]
        assert list(scratch.iterdir())
        process.send_signal(signum)
        process.send_signal(signum)
        assert ended(process).code == 0
    assert not list(scratch.iterdir())
    with pytest.raises(ConnectionRefusedError):
        _is_vnc(document["vnc"])


def test_a_killed_pitr_takes_the_guest_with_it(command: Pitr, repository: Repository, scratch: Path) -> None:
    _store(repository, tiny_guests.showing("hello"))
    with _opened(command.with_environment(TMPDIR=str(scratch))) as (process, document):
        process.kill()
        process.wait()
        wait_until(lambda: not _is_listening(document["vnc"]), "the end of qemu")


def _is_listening(address: Any) -> bool:
    try:
        return _is_vnc(address)
    except ConnectionError:
        return False


def _children(pid: int) -> list[str]:
    """Return the command lines of the children that are qemu."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [child for each in children for child in each.read_text().split()]
    lines = [Path(f"/proc/{child}/cmdline").read_bytes().decode().replace("\0", " ") for child in found]
    return [line for line in lines if "qemu" in line.split(" ")[0]]


def test_a_guest_that_shuts_down_ends_it_and_its_writes_are_kept(
    command: Pitr, repository: Repository, tmp_path: Path
) -> None:
    guest = tiny_guests.saying("", then=tiny_guests.WRITE_SECOND_SECTOR + tiny_guests.POWER_OFF)
    backup = _store(repository, guest)
    kept = tmp_path / "kept.qcow2"
    cache = tmp_path / "cache"
    with _opened(command, "--keep", kept, "--cache-dir", cache) as (process, document):
        assert [disk["overlay"] for disk in document["disks"]] == [str(kept)]
        assert "--keep" in ended(process).stderr
    # The only frame with data stays there for the next time.
    assert sum(len(path.name) == 64 for path in cache.glob("*/*")) == 1
    # Only the sectors that the guest wrote differ from the point.
    command(
        "serve", "--at", "now", "--socket", f"{kept}.socket", "--run", f"qemu-img convert {kept} {kept}.raw"
    )
    content = Path(f"{kept}.raw").read_bytes()
    assert content == (guest + guest).ljust(MiB, b"\0")
    # It goes on with the same point, and with no other one.
    with _opened(command, "--keep", kept) as (process, _):
        assert ended(process).code == 0
    other = _store(repository, b"\1")
    assert other.backup_id != backup.backup_id
    refused = command("open", "--point", other.backup_id, "--headless", "--keep", kept, code=2)
    assert "no overlay" in refused.complaint
    assert kept.is_file()


def test_usage(
    command: Pitr, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    _store(repository, tiny_guests.showing("hello"))
    assert "--headless" in command("open", "--at", "now", code=1).complaint
    command("open", "--headless", code=2)
    command("open", "--at", "now", "--headless", "--vnc", "80", code=2)
    other = tmp_path / "x.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(other), "1M"])
    command("open", "--at", "now", "--headless", "--keep", other, code=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if port >= 5900:
            command("open", "--at", "now", "--headless", "--vnc", str(port), code=1)
