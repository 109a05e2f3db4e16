# SPDX-License-Identifier: GPL-2.0-or-later
"""Several pitr processes on one repository, locks of dead processes, read-only repositories and full disks."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from pitr.lab import Lab
from pitr.lab.lab import LabVM
from tests.support.pitr_server import PitrServer
from tests.support.stored_points import check_verified

MiB = 1 << 20


@pytest.fixture(scope="module")
def vms(remote_lab: Lab, server: PitrServer) -> list[LabVM]:
    """Two VMs with a point each."""
    made = []
    for name in ("web1", "db1"):
        vm = remote_lab.add_vm(name)
        disk = vm.add_disk("system", MiB)
        vm.start()
        with disk.guest() as guest:
            guest.write(0, random.Random(name).randbytes(MiB // 2))
        made.append(vm)
        done = server.run("backup", name)
        assert done.code == 0, done.said
    return made


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _backup_that_hangs(remote_lab: Lab, server: PitrServer, name: str) -> Iterator[int]:
    """Run a backup during the block. Yields its process id."""
    remote_lab.engine.faults.stall(3, "POST", r"/imagetransfers$")
    running = server.start("backup", name)
    _wait_for(remote_lab.open_backups)
    yield running.pid
    running.send(signal.SIGTERM)
    assert running.wait().code in (0, 143)
    remote_lab.engine.faults.clear()


def test_a_second_backup_of_a_vm_names_the_running_process_and_its_start(
    remote_lab: Lab, vms: list[LabVM], server: PitrServer
) -> None:
    with _backup_that_hangs(remote_lab, server, "web1") as pid:
        second = server.run("backup", "web1", "--output", "json")
        assert second.code == 5
        message = orjson.loads(second.out)["error"]["message"]
        assert re.search(rf"process {pid} on \S+, since 2\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", message)
        # A backup of another VM and readers are not blocked.
        done = server.run("backup", "db1")
        assert done.code == 0, done.said
        assert server.run("list").code == server.run("verify").code == 0


def test_prune_skips_a_vm_during_its_backup(remote_lab: Lab, vms: list[LabVM], server: PitrServer) -> None:
    with _backup_that_hangs(remote_lab, server, "web1") as pid:
        done = server.run("prune", "--keep-last", "1", "--vm", "web1")
        assert done.code == 5
        assert f"process {pid} on" in done.said
        other = server.run("prune", "--keep-last", "1", "--vm", "db1")
        assert other.code == 0, other.said


def test_prune_keeps_points_during_their_restore(
    remote_lab: Lab, vms: list[LabVM], server: PitrServer, folder: Path
) -> None:
    before = {disk.id for disk in remote_lab.disks}
    remote_lab.engine.faults.stall(3, "POST", r"/imagetransfers$")
    restore = server.start("restore", "web1", "--at", "now", "--to-new-disks")
    _wait_for(lambda: {disk.id for disk in remote_lab.disks} - before)
    done = server.run("prune", "--keep-last", "1", "--vm", "web1")
    assert done.code == 5
    assert f"process {restore.pid} on" in done.said
    assert restore.wait().code == 0
    assert server.run("prune", "--keep-last", "1", "--vm", "web1").code == 0
    assert server.run("verify").code == 0


def test_two_vms_are_backed_up_at_once(
    remote_lab: Lab, vms: list[LabVM], server: PitrServer, folder: Path
) -> None:
    before = len(check_verified(folder / "repository", at_least=set()))
    for _ in range(3):
        running = [server.start("backup", name, "--full") for name in ("web1", "db1")]
        for one in running:
            done = one.wait()
            assert done.code == 0, done.said
    assert len(check_verified(folder / "repository", at_least=set())) == before + 6


def test_the_lock_of_a_dead_process_blocks_no_other(
    remote_lab: Lab, vms: list[LabVM], server: PitrServer
) -> None:
    remote_lab.engine.faults.stall(3, "POST", r"/imagetransfers$")
    running = server.start("backup", "web1")
    _wait_for(remote_lab.open_backups)
    running.send(signal.SIGKILL)
    running.wait()
    remote_lab.engine.faults.clear()
    done = server.run("backup", "web1")
    assert done.code == 0, done.said
    assert "which an earlier run had left open" in done.said
    assert (remote_lab.open_backups(), remote_lab.open_transfers(), remote_lab.locked_disks()) == ([], [], [])


@pytest.fixture
def read_only(vms: list[LabVM], server: PitrServer, folder: Path) -> Iterator[Path]:
    """The repository on a read-only mount, which needs root."""
    mount = folder / "read-only"
    mount.mkdir()
    bound = subprocess.run(["mount", "--bind", str(folder / "repository"), str(mount)], check=False)
    if bound.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (mount / "file").touch()
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_repository_on_a_read_only_mount_is_listed_verified_and_restored(
    remote_lab: Lab, vms: list[LabVM], server: PitrServer, folder: Path, read_only: Path
) -> None:
    repo = ("--repo", str(read_only))
    listed = server.run("list", *repo, "-o", "json")
    assert listed.code == 0, listed.said
    assert listed.out == server.run("list", "-o", "json").out
    # pitr adds missing records to the catalog in memory.
    os.rename(folder / "repository" / "catalog.db", folder / "catalog.db")  # noqa: PTH104
    assert server.run("list", *repo, "-o", "json").out == listed.out
    os.rename(folder / "catalog.db", folder / "repository" / "catalog.db")  # noqa: PTH104
    verified = server.run("verify", *repo)
    assert verified.code == 0, verified.said
    for target in ("--to-new-disks", f"--to-file={folder / 'read-only.raw'}"):
        restored = server.run("restore", "web1", "--at", "now", target, *repo)
        assert restored.code == 0, restored.said
    for command in (("backup", "web1"), ("prune", "--keep-last", "1"), ("catalog", "rebuild")):
        refused = server.run(*command, *repo)
        assert refused.code == 1, (command, refused.said)
        assert "ead-only" in refused.said
        assert "defect" not in refused.said
    planned = server.run("prune", "--keep-last", "1", "--dry-run", *repo)
    assert planned.code == 0, planned.said


# A full disk


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    mount = folder / "small"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)], check=False)
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        mount.rmdir()


@pytest.fixture(scope="module")
def big(remote_lab: Lab) -> LabVM:
    """A VM with a disk of 6 MiB, of which 1 MiB is incompressible data."""
    vm = remote_lab.add_vm("big")
    disk = vm.add_disk("system", 6 * MiB)
    vm.start()
    with disk.guest() as guest:
        guest.write(0, random.Random(1).randbytes(MiB))
    return vm


def _files(path: Path) -> set[str]:
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return {name for name in found if not name.startswith("locks/")}


def test_a_full_disk_is_an_error_and_leaves_the_repository_valid(
    remote_lab: Lab, big: LabVM, server: PitrServer, small: Path
) -> None:
    repo = ("--repo", str(small / "repository"))
    assert server.run("init", *repo).code == 0
    assert server.run("backup", "big", *repo).code == 0
    points = check_verified(small / "repository", at_least=set())
    files = _files(small / "repository")
    with big.disks[0].guest() as guest:
        guest.write(MiB, random.Random(2).randbytes(4 * MiB))
    failed = server.run("backup", "big", *repo)
    assert failed.code == 1, failed.said
    assert "No space left on device" in failed.said
    assert "pitr prune" in failed.said
    assert _files(small / "repository") - {"catalog.db"} <= files | {
        name for name in _files(small / "repository") if name.startswith(("control/", "runs/"))
    }
    assert (remote_lab.open_backups(), remote_lab.open_transfers(), remote_lab.locked_disks()) == ([], [], [])
    assert check_verified(small / "repository", at_least=points) == points
    subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
    done = server.run("backup", "big", *repo, "-o", "json")
    assert done.code == 0, done.said
    assert orjson.loads(done.out)["backups"][0]["kind"] == "incremental"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_full_disk_of_the_target_is_an_error_and_leaves_nothing(
    remote_lab: Lab, big: LabVM, server: PitrServer, small: Path, image_format: str
) -> None:
    with big.disks[0].guest() as guest:
        guest.write(MiB, random.Random(2).randbytes(4 * MiB))
    assert server.run("backup", "big").code == 0
    failed = server.run(
        "restore", "big", "--at", "now", "--to-file", str(small / "image"), "--format", image_format
    )
    assert failed.code == 1, failed.said
    assert "space" in failed.said.lower()
    assert list(small.iterdir()) == []
    assert shutil.disk_usage(small).used == 0


def test_consolidate_beside_prune_beside_backup_beside_restore(
    remote_lab: Lab, vms: list[LabVM], server: PitrServer, folder: Path
) -> None:
    """Whoever comes second is told so; nothing is lost, and a backup of another VM does not wait."""
    chance = random.Random(9)
    disk = vms[0].disks[0]
    truth: dict[str, bytes] = {}
    image = folder / "together.raw"
    for _ in range(3):
        with disk.guest() as guest:
            guest.write(chance.randrange(64) * 8192, chance.randbytes(8192))
        disk.copy_content(image)
        made = server.run("backup", "web1", "-o", "json")
        assert made.code == 0, made.said
        truth[orjson.loads(made.out)["backups"][0]["point"]] = image.read_bytes()
        image.unlink()
        running = [
            server.start(*command)
            for command in (
                ("backup", "db1"),
                ("consolidate", "web1"),
                ("prune", "--keep-last", "3", "--vm", "web1"),
                ("restore", "web1", "--at", "now", "--to-file", str(image)),
                ("consolidate", "web1"),
            )
        ]
        ended = [each.wait() for each in running]
        assert ended[0].code == 0, ended[0].said
        for done in ended[1:]:
            assert done.code in (0, 5) and "Traceback" not in done.said, done.said
        if ended[3].code == 0:
            assert image.read_bytes() in truth.values()
            image.unlink()
        check_verified(folder / "repository", at_least=set())
    listed = orjson.loads(server.run("list", "web1", "-o", "json").out)["points"]
    assert max(truth) in {point["point"] for point in listed}
    for point in listed:
        if point["point"] in truth:
            done = server.run("restore", "--point", point["backup_id"], "--to-file", str(image))
            assert done.code == 0, done.said
            assert image.read_bytes() == truth[point["point"]]
            image.unlink()
