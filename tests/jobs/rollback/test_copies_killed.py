# SPDX-License-Identifier: GPL-2.0-or-later
"""Rollbacks with copies that are killed: the VM gets all disks of one state, and what they leave can be removed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pitr.lab import Lab, LabVM
from pitr.lab.engine import disk_copies, vms
from tests.support.lab import KiB, MiB, make_vm
from tests.support.pitr_server import Done, PitrServer
from tests.support.sdk_client import content_of, wait_for

Step = tuple[Any, str, int]
#: Functions of the engine, and their calls in a rollback of two disks. In none of them is the swap noted.
BEFORE_THE_SWAP: list[Step] = [(disk_copies, "start", 2)]
IN_THE_SWAP: list[Step] = [(vms, "change_attachment", 2), (vms, "attach", 1), (vms, "change_attachment", 4)]


class Killing:
    """A VM that is down, with a point to go back to, and rollbacks that are killed."""

    def __init__(self, lab: Lab, server: PitrServer, folder: Path) -> None:
        self._lab, self._server, self._folder = lab, server, folder
        self.vm: LabVM = make_vm(lab, MiB, MiB, running=False)
        self._others = {disk.id for disk in lab.disks} - {disk.id for disk in self.vm.disks}
        self.write(b"then")
        document = json.loads(self.good("backup", self.vm.name, "--output", "json").out)
        self._point = document["backups"][0]["backup_id"]
        self.then = self.contents()

    def write(self, data: bytes) -> None:
        self.vm.start()
        for number, disk in enumerate(self.disks()):
            with disk.guest() as guest:
                guest.write(number * 64 * KiB, data * 1024)
        self.vm.stop()

    def disks(self) -> list[Any]:
        return sorted(self._lab.vm(self.vm.id).disks, key=lambda disk: disk.name)

    def contents(self) -> list[bytes]:
        return [content_of(disk, self._folder) for disk in self.disks()]

    def detached(self) -> list[str]:
        """Return the names of the disks that rollbacks have left."""
        attached = self._others | {disk.id for disk in self.disks()}
        return sorted(disk.name for disk in self._lab.disks if disk.id not in attached)

    def good(self, *arguments: str, code: int = 0) -> Done:
        done = self._server.run(*arguments)
        assert done.code == code, done.said
        return done

    def rollback(self, *options: str, code: int = 0) -> Done:
        return self.good("rollback", self.vm.name, *options, code=code)

    def to_point(self) -> Done:
        return self.rollback("--point", self._point)

    def killed(self, module: Any, name: str, number: int) -> None:
        """Kill a rollback when it asks the engine for this, and let the engine do it."""
        original: Callable[..., Any] = getattr(module, name)
        pids: list[int] = []
        calls = 0

        def hooked(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                wait_for(lambda: pids, bool)
                os.kill(pids[0], signal.SIGKILL)
            return original(*arguments, **options)

        with mock.patch.object(module, name, hooked):
            running = self._server.start("rollback", self.vm.name, "--point", self._point)
            pids.append(running.pid)
            done = running.wait()
        assert done.code == -signal.SIGKILL, done.said
        wait_for(self._lab.locked_disks, lambda locked: not locked)


@pytest.fixture
def server(shared_lab: Lab, tmp_path: Path) -> Iterator[PitrServer]:
    environment = {**shared_lab.environment(), "PITR_REPO": str(tmp_path / "repository"), "TZ": "UTC"}
    with PitrServer(environment, tmp_path) as server:
        assert server.run("init").code == 0
        yield server


@pytest.fixture
def killing(lab: Lab, server: PitrServer, tmp_path: Path) -> Killing:
    return Killing(lab, server, tmp_path)


def test_copies_of_a_killed_rollback_are_named_and_removed(killing: Killing) -> None:
    killing.write(b"now!")
    now = killing.contents()
    for step in BEFORE_THE_SWAP:
        killing.killed(*step)
    assert killing.contents() == now
    killing.rollback("--continue", code=4)
    copies = killing.detached()
    assert [name.split("_")[:2] for name in copies] == [["d0", "rollback"], ["d1", "rollback"]]
    said = killing.to_point().said
    assert killing.contents() == killing.then
    assert all(f"disk {name} " in said for name in copies)
    would_go = killing.rollback("--discard-old", "--dry-run").out
    assert all(name in would_go for name in killing.detached()) and len(killing.detached()) == 4
    killing.rollback("--discard-old")
    assert killing.detached() == [] and killing.contents() == killing.then


def test_a_swap_that_was_killed_is_ended(killing: Killing) -> None:
    for number, step in enumerate(IN_THE_SWAP):
        killing.write(b"now%d" % number)
        now = killing.contents()
        killing.killed(*step)
        killing.rollback("--continue")
        assert killing.contents() == killing.then, step
        assert [disk.name for disk in killing.disks()] == ["d0", "d1"]
        assert [name.count("_before_rollback_") for name in killing.detached()] == [1, 1], step
        if number == 0:
            document = json.loads(killing.good("backup", killing.vm.name, "--output", "json").out)
            assert {disk["changes"] for disk in document["backups"][0]["disks"]} == {"compared"}
        # The old disks are still there, and go back without a byte.
        undone = json.loads(killing.rollback("--undo", "--output", "json").out)
        assert {disk["bytes_written"] + disk["bytes_zeroed"] for disk in undone["disks"]} == {0}
        assert killing.contents() == now
        killing.rollback("--discard-old")
        assert killing.detached() == []
