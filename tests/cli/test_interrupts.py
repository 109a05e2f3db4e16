# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals in the middle: nothing stays open, nothing half done is believed, and the next run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pitr.lab import Lab, LabVM
from pitr.lab.engine.state import Transfer
from tests.support.lab import MiB, assert_disk_is, assert_restores, make_vm, nothing_open, oracle_of
from tests.support.layout import open_states
from tests.support.pitr import Pitr, ended, wait_until


@pytest.fixture
def vm(lab: Lab, pitr: Pitr) -> LabVM:
    """A running VM with two disks and a point."""
    vm = make_vm(lab, 24 * MiB, 4 * MiB)
    for disk in vm.disks:
        with disk.guest() as guest:
            guest.write(0, random.Random(disk.name).randbytes(disk.size // 2))
    pitr.backup(vm.name)
    return vm


class Stalled:
    """The imageio daemon stands still once it has a ticket, until `go_on`: what reads or writes data waits."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()
        self._pids: list[int] = []

    def stop(self) -> None:
        with self._lock:
            if not self.reached.is_set():
                self._pids = _daemons()
                for pid in self._pids:
                    os.kill(pid, signal.SIGSTOP)
                self.reached.set()

    def go_on(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)


def _daemons() -> list[int]:
    found = []
    children = Path(f"/proc/{os.getpid()}/task")
    for task in children.iterdir():
        for pid in (task / "children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"ovirt-imageio" in command or b"ovirt_imageio" in command:
                found.append(int(pid))
    assert found, "the daemon is not a child of this process"
    return found


@pytest.fixture
def stalled(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stalled]:
    stalled = Stalled()
    add_ticket = lab.host.add_ticket

    def add(ticket_id: str, **ticket: Any) -> None:
        add_ticket(ticket_id, **ticket)
        stalled.stop()

    monkeypatch.setattr(lab.host, "add_ticket", add)
    yield stalled
    stalled.go_on()


def transferring(lab: Lab) -> list[Transfer]:
    with lab.engine.state.lock:
        return [t for t in lab.engine.state.active_transfers() if t.phase == "transferring"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_backup_that_is_interrupted_leaves_nothing(
    lab: Lab, pitr: Pitr, vm: LabVM, stalled: Stalled, tmp_path: Path, signum: signal.Signals
) -> None:
    before = pitr.json("list")
    with pitr.process("backup", vm.name, "--full", "--output", "json") as process:
        stalled.reached.wait(60)
        process.send_signal(signum)
        stalled.go_on()
        result = ended(process)
    assert result.code == 128 + signum, result
    assert result.error["type"] == "Interrupted"
    assert signum.name in result.complaint
    assert nothing_open(lab)
    assert pitr.json("list") == before
    assert pitr.json("verify")["ok"]
    assert open_states(pitr.repository, "pending", "ended") == set()
    with oracle_of(lab, tmp_path) as oracle:
        said = pitr("backup", vm.name, "--output", "json")
    assert "left open" not in said.stderr
    assert_restores(pitr, lab, said.json["backups"][0], oracle, tmp_path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_restore_to_new_disks_that_is_interrupted_leaves_no_disk(
    lab: Lab, pitr: Pitr, vm: LabVM, stalled: Stalled, signum: signal.Signals
) -> None:
    disks = {disk.id for disk in lab.disks}
    with pitr.process("restore", "--at", "now") as process:
        stalled.reached.wait(60)
        process.send_signal(signum)
        stalled.go_on()
        result = ended(process)
    assert result.code == 128 + signum, result
    assert result.complaint and result.stdout == ""
    assert nothing_open(lab)
    assert {disk.id for disk in lab.disks} == disks
    pitr("restore", "--at", "now")


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_restore_to_files_that_is_interrupted_leaves_no_file(
    lab: Lab, pitr: Pitr, tmp_path: Path, image_format: str
) -> None:
    vm = make_vm(lab, 192 * MiB)
    with vm.disks[0].guest() as guest:
        for at in range(0, 192, 8):
            guest.write(at * MiB, random.Random(at).randbytes(8 * MiB))
    pitr.backup(vm.name)
    target = tmp_path / "out" / "disk.img"
    target.parent.mkdir()
    arguments = (
        "restore",
        "--at",
        "now",
        "--to-file",
        target,
        "--format",
        image_format,
        "--max-workers",
        "1",
    )
    with pitr.process(*arguments) as process:
        # It writes under another name, so that no half of an image is ever taken for one.
        wait_until(lambda: any(target.parent.iterdir()), "a file that is being written")
        process.send_signal(signal.SIGTERM)
        result = ended(process)
    assert result.code in (0, 128 + signal.SIGTERM)
    assert result.code == 0 or list(target.parent.iterdir()) == []
    assert not _running_children(process)


def _running_children(process: subprocess.Popen[str]) -> list[str]:
    """Programs that say that the ended process was their parent have been given another one by now."""
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/stat")
        if f" {process.pid} " in _read(path).rpartition(")")[2][:20]
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_what_a_killed_backup_has_left_open_is_ended_by_the_next(
    lab: Lab, pitr: Pitr, vm: LabVM, stalled: Stalled, tmp_path: Path
) -> None:
    before = pitr.json("list")
    with pitr.process("backup", vm.name, "--full") as process:
        stalled.reached.wait(60)
        wait_until(lambda: transferring(lab), "a transfer")
        process.kill()
        result = ended(process)
    stalled.go_on()
    assert result.code == -signal.SIGKILL
    assert lab.open_backups() and lab.open_transfers()
    # The repository is whole, whatever is open on the engine.
    assert pitr.json("list") == before
    assert pitr.json("verify")["ok"]
    pitr("restore", "--at", "now", "--to-file", tmp_path / "restored")
    with oracle_of(lab, tmp_path) as oracle:
        said = pitr("backup", vm.name, "--output", "json")
    assert "an earlier run had left open" in said.stderr
    assert nothing_open(lab)
    assert_restores(pitr, lab, said.json["backups"][0], oracle, tmp_path)
    assert "left open" not in pitr("backup", vm.name).stderr


@contextmanager
def at_request(lab: Lab, method: str, path: str, what: Callable[[], None]) -> Iterator[None]:
    """Do something when a request comes, before it is looked at."""
    take = lab.engine.faults.take
    done: list[str] = []

    def hooked(found: str, at: str) -> Any:
        if not done and found == method and at.endswith(path):
            done.append(at)
            what()
        return take(found, at)

    with mock.patch.object(lab.engine.faults, "take", hooked):
        yield
    assert done, path


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/backups"), ("POST", "/imagetransfers"), ("GET", "/disks"), ("POST", "/finalize")],
)
def test_a_backup_that_is_stopped_at_any_request(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path, method: str, path: str, signum: signal.Signals
) -> None:
    started: list[subprocess.Popen[str]] = []
    known = threading.Event()

    def stop() -> None:
        known.wait(60)
        started[0].send_signal(signum)

    with at_request(lab, method, path, stop), pitr.process("backup", vm.name, "--full") as process:
        started.append(process)
        known.set()
        result = ended(process)
    if signum == signal.SIGKILL:
        assert result.code == -signum
    else:
        assert result.code == 128 + signum, result
        assert nothing_open(lab)
    assert pitr.json("verify")["ok"]
    # The engine may carry out yet what it was asked for last.
    wait_until(lambda: not lab.engine.state.backups or _settled(lab), "the engine to settle")
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert nothing_open(lab)
    assert_restores(pitr, lab, point, oracle, tmp_path)


def _settled(lab: Lab) -> bool:
    with lab.engine.state.lock:
        return all(backup.ended or backup.phase == "ready" for backup in lab.engine.state.backups.values())


def test_a_restore_that_is_stopped_while_the_disk_is_made(lab: Lab, pitr: Pitr, vm: LabVM) -> None:
    disks = {disk.id for disk in lab.disks}
    started: list[subprocess.Popen[str]] = []
    known = threading.Event()

    def stop() -> None:
        known.wait(60)
        started[0].send_signal(signal.SIGINT)

    with (
        at_request(lab, "POST", "/api/disks", stop),
        pitr.process("restore", "--at", "now") as process,
    ):
        started.append(process)
        known.set()
        result = ended(process)
    assert result.code == 128 + signal.SIGINT
    assert {disk.id for disk in lab.disks} == disks and nothing_open(lab)


def test_new_disks_hold_what_the_point_held(lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path) -> None:
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    for disk in pitr.json("restore", "--point", point["backup_id"])["disks"]:
        assert_disk_is(lab, disk["target"], oracle[disk["disk_id"]], tmp_path)


def test_a_second_signal_during_the_cleanup_leaves_nothing_that_the_next_run_does_not_end(
    lab: Lab, pitr: Pitr, vm: LabVM, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[str]] = []
    known = threading.Event()

    def stop() -> None:
        known.wait(60)
        started[0].send_signal(signal.SIGTERM)

    with (
        at_request(lab, "POST", "/imagetransfers", stop),
        at_request(lab, "POST", "/finalize", stop),
        pitr.process("backup", vm.name) as process,
    ):
        started.append(process)
        known.set()
        result = ended(process)
    assert result.code == 128 + signal.SIGTERM
    wait_until(lambda: _settled(lab), "the engine to settle")
    with oracle_of(lab, tmp_path) as oracle:
        point = pitr.backup(vm.name)
    assert nothing_open(lab)
    assert_restores(pitr, lab, point, oracle, tmp_path)
