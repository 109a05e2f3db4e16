# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of a running VM: the point in time, the three states of a range, and restarts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pitr.errors import LabError
from pitr.lab.host import Host
from tests.support.lab_host import KIB, MIB, content, extents_text, open_backup, read_backup


@pytest.fixture
def vm(new_host: Host) -> str:
    new_host.create_volume("system", MIB, "cow")
    new_host.create_volume("data", MIB, "raw")
    new_host.start_vm("vm", ["system", "data"])
    return "vm"


def test_an_incremental_has_data_zero_and_unchanged_ranges(new_host: Host, vm: str) -> None:
    with new_host.guest(vm, "system") as guest:
        guest.write(0, b"A" * 768 * KIB)
        new_host.begin_backup(vm, "full", {"system": None}, "c1")
        with open_backup(new_host, "full", "system", dirty=False) as client:
            assert extents_text(client, "zero") == "768k:data 256k:zero"
        new_host.end_backup("full")

        guest.write(64 * KIB, b"B" * 10)
        guest.zero(256 * KIB, 64 * KIB, unmap=False)
        guest.zero(320 * KIB, 64 * KIB, unmap=True)
        guest.discard(384 * KIB, 64 * KIB)
        guest.write(512 * KIB, bytes(64 * KIB))
        guest.zero(896 * KIB, 64 * KIB, unmap=True)
        new_host.begin_backup(vm, "incremental", {"system": "c1"}, "c2")
        with open_backup(new_host, "incremental", "system", dirty=True) as client:
            assert extents_text(client, "dirty") == (
                "64k:unchanged 64k:data 128k:unchanged 192k:zero 64k:unchanged 64k:data "
                "320k:unchanged 64k:zero 64k:unchanged"
            )
        new_host.end_backup("incremental")


def test_an_incremental_without_changes_is_empty(new_host: Host, vm: str) -> None:
    new_host.begin_backup(vm, "full", {"system": None}, "c1")
    new_host.end_backup("full")
    new_host.begin_backup(vm, "incremental", {"system": "c1"}, "c2")
    with open_backup(new_host, "incremental", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == "1024k:unchanged"
    new_host.end_backup("incremental")


def test_a_backup_shows_the_disk_at_its_start(new_host: Host, vm: str, tmp_path: Path) -> None:
    with new_host.guest(vm, "system") as system, new_host.guest(vm, "data") as data:
        system.write(0, b"old" * 100000)
        data.write(0, b"raw" * 100000)
        new_host.begin_backup(vm, "full", {"system": None, "data": None}, "c1")
        before = {name: content(new_host, name, tmp_path) for name in ("system", "data")}

        system.write(100, b"NEW")
        system.discard(128 * KIB, 128 * KIB)
        system.write(900 * KIB, b"NEW")
        data.zero(0, MIB, unmap=True)

        for name, expected in before.items():
            assert read_backup(new_host, "full", name) == expected
            assert content(new_host, name, tmp_path) != expected
        new_host.end_backup("full")


def test_writes_during_a_backup_are_in_the_next_backup(new_host: Host, vm: str, tmp_path: Path) -> None:
    with new_host.guest(vm, "system") as guest:
        new_host.begin_backup(vm, "full", {"system": None}, "c1")
        guest.write(64 * KIB, b"during")
        full = read_backup(new_host, "full", "system")
        new_host.end_backup("full")
        new_host.begin_backup(vm, "incremental", {"system": "c1"}, "c2")
        assert read_backup(new_host, "incremental", "system", onto=full) == content(
            new_host, "system", tmp_path
        )
        new_host.end_backup("incremental")


def test_points_of_a_busy_vm_are_one_moment_of_all_its_disks(new_host: Host, tmp_path: Path) -> None:
    """The guest writes a number to the first disk, then to the second: the second is never ahead in a point."""
    size = 4 * MIB
    for name in ("first", "second"):
        new_host.create_volume(name, size, "cow")
    new_host.start_vm("busy", ["first", "second"])
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with new_host.guest("busy", "first") as first, new_host.guest("busy", "second") as second:
                number = 0
                while not stop.is_set():
                    number += 1
                    # Write the number, and a place that shows which writes a bitmap has missed.
                    place = 512 + number * 64 * KIB % (size - 64 * KIB)
                    for disk in (first, second):
                        disk.write(0, number.to_bytes(8, "big"))
                        disk.write(place, number.to_bytes(8, "big"))
        except BaseException as error:  # noqa: BLE001 - reported by the test below
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        points: dict[str, bytes | None] = {"first": None, "second": None}
        since = None
        for turn in range(8):
            backup_id, checkpoint = f"backup-{turn}", f"c{turn}"
            new_host.begin_backup("busy", backup_id, {"first": since, "second": since}, checkpoint)
            # Compare with a full backup of the same moment.
            for name, onto in points.items():
                points[name] = read_backup(new_host, backup_id, name, onto=onto)
                assert points[name] == read_backup(new_host, backup_id, name)
            new_host.end_backup(backup_id)
            first, second = (int.from_bytes((points[name] or b"")[:8], "big") for name in ("first", "second"))
            assert first - second in (0, 1)
            since = checkpoint
    finally:
        stop.set()
        writer.join()
    assert failures == []
    new_host.begin_backup("busy", "last", {"first": since, "second": since}, None)
    for name, onto in points.items():
        assert read_backup(new_host, "last", name, onto=onto) == content(new_host, name, tmp_path)
    new_host.end_backup("last")


def test_a_raw_volume_is_always_full_and_gets_no_checkpoint(new_host: Host, vm: str) -> None:
    new_host.begin_backup(vm, "first", {"system": None, "data": None}, "c1")
    new_host.end_backup("first")
    assert new_host.checkpoints("system") == ["c1"]
    assert new_host.checkpoints("data") == []
    with pytest.raises(LabError, match=r"checkpoint c1 of volume .* not found"):
        new_host.begin_backup(vm, "second", {"system": "c1", "data": "c1"}, "c2")
    assert new_host.checkpoints("system") == ["c1"]
    with new_host.guest(vm, "data") as guest:
        guest.write(0, b"raw")
    new_host.begin_backup(vm, "second", {"system": "c1", "data": None}, "c2")
    assert read_backup(new_host, "second", "data") == b"raw".ljust(MIB, b"\0")
    new_host.end_backup("second")


def test_checkpoints_survive_a_stop_and_start_of_the_vm(new_host: Host, vm: str, tmp_path: Path) -> None:
    with new_host.guest(vm, "system") as guest:
        guest.write(0, b"A" * MIB)
        new_host.begin_backup(vm, "full", {"system": None}, "c1")
        full = read_backup(new_host, "full", "system")
        new_host.end_backup("full")
        guest.zero(0, 64 * KIB, unmap=True)
        new_host.begin_backup(vm, "incremental", {"system": "c1"}, "c2")
        new_host.end_backup("incremental")
        guest.write(256 * KIB, b"before the stop")
    new_host.stop_vm(vm)
    assert not new_host.is_running(vm)
    assert new_host.checkpoints("system") == ["c1", "c2"]
    new_host.start_vm(vm, ["system", "data"])
    assert new_host.checkpoints("system") == ["c1", "c2"]
    with new_host.guest(vm, "system") as guest:
        guest.write(512 * KIB, b"after the start")
    new_host.begin_backup(vm, "later", {"system": "c1"}, "c3")
    with open_backup(new_host, "later", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == (
            "64k:zero 192k:unchanged 64k:data 192k:unchanged 64k:data 448k:unchanged"
        )
    assert read_backup(new_host, "later", "system", onto=full) == content(new_host, "system", tmp_path)
    new_host.end_backup("later")


def test_a_vm_that_stops_takes_its_backup_down_and_keeps_the_checkpoint(new_host: Host, vm: str) -> None:
    new_host.begin_backup(vm, "full", {"system": None}, "c1")
    new_host.stop_vm(vm)
    with pytest.raises(LabError, match="backup full of volume system not found"):
        new_host.backup_export("full", "system")
    assert new_host.checkpoints("system") == ["c1"]
    new_host.delete_volume("system")


def test_a_vm_that_crashes_loses_its_checkpoints(new_host: Host, vm: str, tmp_path: Path) -> None:
    with new_host.guest(vm, "system") as guest:
        guest.write(0, b"written")
        guest.flush()
    new_host.begin_backup(vm, "full", {"system": None}, "c1")
    new_host.end_backup("full")
    new_host.stop_vm(vm)
    new_host.start_vm(vm, ["system", "data"])
    new_host.begin_backup(vm, "running", {"system": "c1"}, "c2")
    new_host.crash_vm(vm)
    assert new_host.checkpoints("system") == []
    new_host.start_vm(vm, ["system", "data"])
    assert new_host.checkpoints("system") == []
    new_host.begin_backup(vm, "again", {"system": None}, "c3")
    assert read_backup(new_host, "again", "system") == content(new_host, "system", tmp_path)
    new_host.end_backup("again")
    assert new_host.checkpoints("system") == ["c3"]


def test_a_disk_is_plugged_and_unplugged_while_the_vm_runs(new_host: Host, vm: str) -> None:
    new_host.create_volume("extra", MIB, "cow")
    new_host.attach(vm, "extra")
    with new_host.guest(vm, "extra") as guest:
        guest.write(0, b"extra")
    new_host.begin_backup(vm, "full", {"extra": None}, "c1")
    with pytest.raises(LabError, match="being backed up"):
        new_host.detach(vm, "extra")
    new_host.end_backup("full")
    new_host.detach(vm, "extra")
    assert new_host.checkpoints("extra") == ["c1"]
    with pytest.raises(LabError, match="not plugged"):
        new_host.guest(vm, "extra")


def test_a_backup_that_cannot_start_leaves_nothing_behind(new_host: Host, vm: str, folder: Path) -> None:
    new_host.begin_backup(vm, "full", {"system": None}, "c1")
    new_host.end_backup("full")
    # A bitmap of this name that is no checkpoint of the lab: the transaction fails in its last step.
    new_host._vm(vm).daemon.execute(
        "block-dirty-bitmap-add", {"node": new_host.volume("system").node, "name": "c2"}
    )
    with pytest.raises(LabError, match="refused transaction"):
        new_host.begin_backup(vm, "incremental", {"data": None, "system": "c1"}, "c2")
    assert list((folder / "scratch").iterdir()) == []
    assert new_host._vm(vm).daemon.execute("query-block-jobs") == []
    with new_host.guest(vm, "system") as guest:
        guest.write(0, b"still recorded")
    new_host.begin_backup(vm, "incremental", {"system": "c1"}, "c3")
    with open_backup(new_host, "incremental", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == "64k:data 960k:unchanged"
    new_host.end_backup("incremental")
