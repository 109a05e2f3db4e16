# SPDX-License-Identifier: GPL-2.0-or-later
"""Rollbacks that are killed, at each step and at random moments.

Whatever happens, the VM's disks hold one of the two states or the rollback says that it is unfinished, --continue ends
it, and the undo point restores. A quarter of `PITR_KILLS` is the number of random kills.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pitr.lab import Lab
from pitr.lab.engine import vms
from pitr.lab.engine.transfer_run import _SimulatedTransfer
from pitr.lab.lab import LabVM
from tests.support.lab import make_vm, scribble
from tests.support.pitr_server import Done, PitrServer, Running
from tests.support.sdk_client import content_of, wait_for
from tests.support.stored_points import SOAK, check_verified

KILLS = int(os.environ.get("PITR_KILLS", "0")) // 4
MiB = 1 << 20
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
#: The phases in which the engine still works on a transfer.
_MOVING = {"initializing", "resuming", "finalizing_success"}


class Killing:
    """A VM that is down, with a point to go back to, and commands of pitr that are killed.

    `contents` are by the names of the disks.
    """

    def __init__(self, lab: Lab, server: PitrServer, folder: Path, *mode: str) -> None:
        self.mode = mode
        self.lab = lab
        self.server = server
        self.folder = folder
        self.chance = random.Random()
        self._checked: set[str] = set()
        self.vm: LabVM = make_vm(lab, 2 * MiB, MiB, formats=("cow", "raw"))
        self.vm.stop()
        self.change()
        self.good("backup", self.vm.name)
        self.then = self.contents()
        self.point = self._points()[0]["backup_id"]
        self.go_back()

    def change(self) -> None:
        self.vm.start()
        for disk in self.vm.disks:
            with disk.guest() as guest:
                scribble(guest, self.chance, disk.size)
        self.vm.stop()

    def contents(self) -> dict[str, bytes]:
        return {disk.name: content_of(disk, self.folder) for disk in self.vm.disks}

    def good(self, *arguments: str) -> Done:
        done = self.server.run(*arguments)
        assert done.code == 0, done.said
        return done

    def start(self) -> Running:
        return self.server.start("rollback", self.vm.name, "--point", self.point, *self.mode)

    def check(self, done: Done, signum: int) -> bool:
        """Check the state after a kill, end the rollback, check again; return whether there was something to end."""
        assert done.code in ((0, -signum) if signum == signal.SIGKILL else (0, 128 + signum)), done.said
        wait_for(self._phases, lambda phases: not phases & _MOVING)
        if self.mode:
            self._check_disks()
        else:
            # The old disks stay as they are. A backup that is open locks them.
            self.good("engine", "cleanup")
            wait_for(
                lambda: [self.lab.disk(each).status for each in self.old], lambda all_: set(all_) == {"ok"}
            )
            found = sorted(content_of(self.lab.disk(each), self.folder) for each in self.old)
            assert found == sorted(self.now.values())
        self._check_undo_point()
        ended = self._continue()
        assert self.contents() == self.then or (not ended and self.contents() == self.now)
        self.good("engine", "cleanup")
        self.good("rollback", self.vm.name, "--discard-old")
        self._remove_copies()
        assert self.lab.open_transfers() == self.lab.locked_disks() == self.lab.open_backups() == []
        return ended

    def go_back(self) -> None:
        """Let the disks hold new data, that the next rollback takes back."""
        self.change()
        self.now = self.contents()
        self.old = [disk.id for disk in self.vm.disks]

    def _check_disks(self) -> None:
        assert len(self.vm.disks) == 2
        for disk in self.vm.disks:
            if disk.status == "ok":
                assert content_of(disk, self.folder) in (self.now[disk.name], self.then[disk.name])
            else:
                assert disk.status == "locked" and self.lab.open_transfers() + self.lab.open_backups()

    def _remove_copies(self) -> None:
        """Remove the copies of killed rollbacks. The engine cannot tell whose they are, so pitr leaves them."""
        attached = {disk.id for disk in self.vm.disks}
        for disk in self.lab.disks:
            if disk.id not in attached:
                assert "_rollback_" in disk.name and "_before_rollback_" not in disk.name
                disk.delete()

    def _continue(self) -> bool:
        done = self.server.run("rollback", self.vm.name, "--continue", "--output", "json")
        assert done.code in (0, 4), done.said
        if done.code == 0:
            document = json.loads(done.out)
            assert document["point"] == self.point
            assert all(disk["verified"] for disk in document["disks"])
        return done.code == 0

    def _check_undo_point(self) -> None:
        newest = self._points()[0]
        if not (newest.get("note") or "").startswith("before rollback to"):
            return
        if newest["backup_id"] in self._checked:
            return
        self._checked.add(newest["backup_id"])
        target = self.folder / "undo"
        self.good("restore", "--point", newest["backup_id"], "--to-file", f"{target}/")
        images = sorted(path.read_bytes() for path in target.iterdir())
        assert images == sorted(self.now.values())
        for path in target.iterdir():
            path.unlink()
        target.rmdir()

    def _points(self) -> list[Any]:
        document = json.loads(self.good("list", self.vm.name, "--output", "json").out)
        points: list[Any] = document["points"]
        return sorted(points, key=lambda point: str(point["point"]), reverse=True)

    def _phases(self) -> set[str]:
        with self.lab.engine.state.lock:
            return {
                transfer.phase
                for disk in self.vm.disks
                for transfer in self.lab.engine.state.active_transfers(disk_id=disk.id)
            }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def server(shared_lab: Lab, folder: Path) -> Iterator[PitrServer]:
    environment = {**shared_lab.environment(), "PITR_REPO": str(folder / "repository"), "TZ": "UTC"}
    with PitrServer(environment, folder) as server:
        assert server.run("init").code == 0
        yield server


def _killed_in(
    killing: Killing, target: object, method: str, number: int, matches: Callable[..., bool]
) -> Done:
    """Kill a rollback when the lab calls `method` of `target` for the `number`th time with matching arguments."""
    original = getattr(target, method)
    pids: list[int] = []
    calls = 0

    def hooked(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if matches(*arguments, **options):
            calls += 1
            if calls == number:
                wait_for(lambda: pids, bool)
                os.kill(pids[0], signal.SIGKILL)
        return original(*arguments, **options)

    with mock.patch.object(target, method, hooked):
        running = killing.start()
        pids.append(running.pid)
        done = running.wait()
    assert done.code == -signal.SIGKILL, done.said
    return done


def _is_upload(transfer: _SimulatedTransfer) -> bool:
    return not transfer._is_download


def _always(*_arguments: Any, **_options: Any) -> bool:
    return True


def _writes(_volume_id: str, *, read_only: bool, **_options: Any) -> bool:
    return not read_only


#: What is called, for which time, and whether the rollback has begun by then.
Step = tuple[object, str, int, Callable[..., bool], bool]


def _kill_at(killing: Killing, steps: Sequence[Step]) -> None:
    for target, method, number, matches, begun in steps:
        done = _killed_in(killing, target, method, number, matches)
        assert killing.check(done, signal.SIGKILL) is begun, (method, number)
        killing.go_back()
    check_verified(killing.folder / "repository", at_least=set())


def test_a_rollback_in_place_that_is_killed_at_each_step_is_ended_by_the_next_run(
    lab: Lab, server: PitrServer, folder: Path
) -> None:
    steps: list[Step] = [
        (lab.host, "end_backup", 1, _always, False),
        (_SimulatedTransfer, "_finalize", 1, _is_upload, True),
        (_SimulatedTransfer, "_unlock_disk", 1, _is_upload, True),
    ]
    more: list[Step] = [
        (lab.host, "serve_volume", 1, _writes, True),
        (lab.host, "serve_volume", 2, _writes, True),
        (_SimulatedTransfer, "_unlock_disk", 2, _is_upload, True),
    ]
    _kill_at(Killing(lab, server, folder, "--in-place"), [*steps, *(more if SOAK else ())])


def test_a_rollback_on_copies_that_is_killed_at_each_step_is_ended_by_the_next_run(
    lab: Lab, server: PitrServer, folder: Path
) -> None:
    steps: list[Step] = [
        (vms, "attach", 1, _always, True),
        (vms, "attach", 2, _always, True),
    ]
    more: list[Step] = [
        (lab.host, "copy_volume", 2, _always, False),
        (_SimulatedTransfer, "_finalize", 1, _is_upload, False),
        (vms, "detach", 1, _always, True),
        (vms, "detach", 2, _always, True),
    ]
    _kill_at(Killing(lab, server, folder), [*steps, *(more if SOAK else ())])


@pytest.mark.skipif(KILLS == 0, reason="PITR_KILLS says how many; `make soak` sets it")
@pytest.mark.parametrize("mode", [["--in-place"], []], ids=["in-place", "copies"])
def test_a_rollback_that_is_killed_at_random_moments_is_ended_by_the_next_run(
    lab: Lab,
    server: PitrServer,
    folder: Path,
    mode: list[str],
    record_property: Callable[[str, object], None],
) -> None:
    killing = Killing(lab, server, folder, *mode)
    began = time.monotonic()
    done = killing.start().wait()
    longest_s = 1.2 * (time.monotonic() - began)
    killing.check(done, signal.SIGKILL)
    stopped = ended = 0
    for number in range(KILLS):
        killing.go_back()
        signum = _SIGNALS[number % len(_SIGNALS)]
        running = killing.start()
        # The disks change in the second half.
        time.sleep(killing.chance.uniform(longest_s / 2 if number % 2 else 0, longest_s))
        running.send(signum)
        done = running.wait()
        stopped += done.code != 0
        ended += killing.check(done, signum)
    check_verified(folder / "repository", at_least=set())
    record_property("rollbacks stopped", f"{stopped} of {KILLS}")
    record_property("rollbacks ended by --continue", f"{ended} of {KILLS}")
