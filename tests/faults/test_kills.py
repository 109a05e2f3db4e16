# SPDX-License-Identifier: GPL-2.0-or-later
"""Real processes, killed and interrupted at random moments of a backup and a restore to the engine."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from pitr import times
from pitr.lab import Lab
from pitr.lab.lab import LabDisk, LabVM
from pitr.repository import Repository
from tests.support.layout import open_states
from tests.support.pitr_server import Done, PitrServer
from tests.support.stored_points import check_verified, content

KILLS = int(os.environ.get("PITR_KILLS", "52"))
MiB = 1 << 20
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)


def _write(disk: LabDisk, chance: random.Random) -> None:
    with disk.guest() as guest:
        for _ in range(3):
            guest.write(chance.randrange(2 * MiB // 8192) * 8192, chance.randbytes(8192))


def _interrupted(server: PitrServer, arguments: list[str], signum: int, after_s: float) -> Done:
    running = server.start(*arguments)
    time.sleep(after_s)
    running.send(signum)
    return running.wait()


def _check_clean(remote_lab: Lab) -> None:
    assert (remote_lab.open_transfers(), remote_lab.open_backups(), remote_lab.locked_disks()) == ([], [], [])


def _check_ended(done: Done, signum: int) -> bool:
    """Check that a process cleaned up after the signal or had exited before. Return whether the signal stopped it."""
    if done.code == 0:
        return False
    if signum == signal.SIGKILL:
        assert done.code == -signal.SIGKILL, done.said
    else:
        assert done.code == 128 + signum, done.said
        assert f"stopped by {signal.Signals(signum).name}" in done.said
        assert "Traceback" not in done.said
    return True


def _duration(run: Callable[[], Done]) -> float:
    started = time.monotonic()
    done = run()
    assert done.code == 0, done.said
    return time.monotonic() - started


@pytest.fixture(scope="module")
def vm(remote_lab: Lab) -> LabVM:
    vm = remote_lab.add_vm("web1")
    vm.add_disk("system", 2 * MiB)
    vm.start()
    return vm


def _check_restores(server: PitrServer, remote_lab: Lab, disk: LabDisk, folder: Path) -> None:
    """Check that the newest point equals the disk, which has not changed since."""
    image, oracle = folder / "restored.raw", folder / "oracle.raw"
    done = server.run("restore", "--at", "now", "--to-file", str(image))
    assert done.code == 0, done.said
    remote_lab.disk(disk.id).copy_content(oracle)
    assert image.read_bytes() == oracle.read_bytes()
    image.unlink()
    oracle.unlink()


def test_the_next_backup_cleans_up_after_killed_ones(
    remote_lab: Lab,
    vm: LabVM,
    server: PitrServer,
    folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random()
    disk = vm.disks[0]
    _write(disk, chance)
    assert server.run("backup", "web1").code == 0
    _write(disk, chance)
    longest_s = 1.2 * _duration(lambda: server.run("backup", "web1"))
    repository = folder / "repository"
    points: set[str] = set()
    stopped = 0
    for number in range(KILLS // 2):
        signum = _SIGNALS[number % len(_SIGNALS)]
        _write(disk, chance)
        open_before = {*remote_lab.open_transfers(), *remote_lab.open_backups()}
        done = _interrupted(server, ["backup", "web1"], signum, chance.uniform(0, longest_s))
        stopped += _check_ended(done, signum)
        if signum != signal.SIGKILL:
            assert {*remote_lab.open_transfers(), *remote_lab.open_backups()} <= open_before
        points = check_verified(repository, at_least=points)
        if number % 8 == 7:
            done = server.run("backup", "web1")
            assert done.code == 0, done.said
            _check_clean(remote_lab)
            _check_restores(server, remote_lab, disk, folder)
            # Checkpoints of killed runs are removed too, unless the next incremental needs them.
            assert len(vm.checkpoints) == 1
    record_property("backups stopped", f"{stopped} of {KILLS // 2}")
    assert server.run("backup", "web1").code == 0
    _check_clean(remote_lab)
    assert not open_states(repository, "pending", "ended")
    assert stopped > KILLS // 8


def test_the_next_restore_cleans_up_after_killed_ones(
    remote_lab: Lab,
    vm: LabVM,
    server: PitrServer,
    folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random()
    _write(vm.disks[0], chance)
    assert server.run("backup", "web1").code == 0
    arguments = ["restore", "web1", "--at", "now", "--to-new-disks"]
    longest_s = 1.2 * _duration(lambda: server.run(*arguments))
    stopped = 0
    for number in range(KILLS // 2):
        signum = _SIGNALS[number % len(_SIGNALS)]
        before = {disk.id for disk in remote_lab.disks}
        done = _interrupted(server, arguments, signum, chance.uniform(0, longest_s))
        was_stopped = _check_ended(done, signum)
        stopped += was_stopped
        if signum == signal.SIGKILL:
            assert server.run("engine", "cleanup").code == 0
        elif was_stopped:
            # The signal may come after the work, while the process exits.
            assert all(
                _same(remote_lab, disk, vm.disks[0], folder)
                for disk in remote_lab.disks
                if disk.id not in before
            )
        _check_clean(remote_lab)
    record_property("restores stopped", f"{stopped} of {KILLS // 2}")
    done = server.run(*arguments, "--output", "json")
    assert done.code == 0, done.said
    assert _same(
        remote_lab, remote_lab.disk(orjson.loads(done.out)["disks"][0]["target"]), vm.disks[0], folder
    )
    assert not open_states(folder / "repository", "uploads", "done")
    assert not list((folder / "repository").glob("locks/*.upload"))
    assert stopped > KILLS // 8


def _same(remote_lab: Lab, one: LabDisk, two: LabDisk, folder: Path) -> bool:
    contents = []
    for disk in (one, two):
        remote_lab.disk(disk.id).copy_content(folder / "content.raw")
        contents.append((folder / "content.raw").read_bytes())
        (folder / "content.raw").unlink()
    return contents[0] == contents[1]


def test_cleanup_shows_and_ends_only_leftovers_of_pitr(
    remote_lab: Lab, vm: LabVM, server: PitrServer, folder: Path
) -> None:
    from pitr.ovirt.engine import BackupRequest, Engine, find_vm, load_config, start_backup

    other = remote_lab.add_vm("other")
    other.add_disk("data", MiB)
    other.start()
    with Engine(load_config(environ=remote_lab.environment()), poll_interval_s=0.05) as engine:
        found = find_vm(engine, "other")
        # A backup of another product; this repository has no note of it.
        foreign = start_backup(
            engine, found, BackupRequest((other.disks[0].id,), "11111111-2222-4333-8444-555555555555")
        )
        with foreign:
            killed = _killed_with_an_open_backup(remote_lab, server, folder)
            done = server.run("engine", "cleanup", "--dry-run", "--output", "json")
            assert done.code == 0, done.said
            shown = orjson.loads(done.out)["leftovers"]
            assert [(one["backup_id"], one["open"]) for one in shown] == [(killed, True)]
            assert killed in remote_lab.open_backups()
            done = server.run("engine", "cleanup", "web1")
            assert done.code == 0, done.said
            assert remote_lab.open_backups() == [foreign.id]
            foreign.check_still_ready()
    other.stop()
    assert orjson.loads(server.run("engine", "cleanup", "-o", "json").out)["leftovers"] == []


def _killed_with_an_open_backup(remote_lab: Lab, server: PitrServer, folder: Path) -> str:
    """Kill a backup of web1 while it runs. Return the id of the backup that it left on the engine."""
    before = set(remote_lab.open_backups())
    # The backup must not finish before it is killed.
    remote_lab.engine.faults.stall(3, "POST", r"/imagetransfers$")
    running = server.start("backup", "web1", "--full")
    while not set(remote_lab.open_backups()) - before:
        time.sleep(0.01)
    running.send(signal.SIGKILL)
    running.wait()
    (left,) = set(remote_lab.open_backups()) - before
    assert f"{remote_lab.vm('web1').id}/{left}" in open_states(folder / "repository", "pending", "ended")
    return left


def test_the_leftover_of_a_killed_restore_to_a_file_is_named(
    remote_lab: Lab, vm: LabVM, server: PitrServer, folder: Path
) -> None:
    target = folder / "image.raw"
    partial = folder / "image.raw.pitr-partial"
    partial.write_bytes(b"half of it")
    assert server.run("backup", "web1").code == 0
    done = server.run("restore", "web1", "--at", "now", "--to-file", str(target))
    assert done.code == 2
    assert "was killed" in done.said
    partial.unlink()
    assert server.run("restore", "web1", "--at", "now", "--to-file", str(target)).code == 0
    target.unlink()


def test_killed_consolidations_and_prunes_lose_nothing(
    remote_lab: Lab,
    vm: LabVM,
    server: PitrServer,
    folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random()
    disk, repository = vm.disks[0], folder / "repository"
    truth: dict[str, bytes] = {}
    commands = [["consolidate", "web1"], ["prune", "--keep-last", "3", "--vm", "web1"]]
    stopped = 0
    rounds = max(10, KILLS // 8)
    for number in range(rounds):
        _write(disk, chance)
        disk.copy_content(folder / "oracle.raw")
        done = server.run("backup", "web1", "-o", "json")
        assert done.code == 0, done.said
        point = orjson.loads(done.out)["backups"][0]["point"]
        truth[point] = (folder / "oracle.raw").read_bytes()
        (folder / "oracle.raw").unlink()
        signum = _SIGNALS[number % len(_SIGNALS)]
        done = _interrupted(server, commands[number % 2], signum, chance.uniform(0, 0.3))
        stopped += _check_ended(done, signum)
        check_verified(repository, at_least=set())
        with Repository.open(repository) as opened:
            points = {times.to_text(each.point): each for each in opened.catalog.points()}
            # The newest three stay, each as it was or as one that stands for it.
            assert {*list(truth)[-3:]} <= points.keys()
            for time_of, each in points.items():
                if time_of in truth:
                    assert list(content(opened, each).values()) == [truth[time_of]]
    record_property("consolidations and prunes stopped", f"{stopped} of {rounds}")
    for command in commands:
        done = server.run(*command)
        assert done.code == 0, done.said
    check_verified(repository, at_least=set())
