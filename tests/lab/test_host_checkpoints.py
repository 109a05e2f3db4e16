# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of checkpoints: rebuild random histories from backups, and delete any checkpoint of a chain."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.errors import LabError
from pitr.lab.host import Guest, Host
from tests.support.lab_host import KIB, MIB, content, extents_text, open_backup, read_backup

#: Not a multiple of 64 KiB: the last cluster is a part of one.
ODD_SIZE = 10487296


def change_at_random(guest: Guest, random_source: random.Random) -> None:
    """Do some typical guest writes: aligned, unaligned and overlapping."""
    for _ in range(12):
        length = min(random_source.choice((1, 512, 4096, 64 * KIB, 100_001)), guest.size)
        offset = random_source.randrange(guest.size - length + 1)
        if random_source.random() < 0.5:
            unit = random_source.choice((512, 4096, 64 * KIB))
            offset -= offset % unit
        action = random_source.randrange(5)
        if action <= 1:
            guest.write(offset, random_source.randbytes(length))
        elif action == 2:
            guest.write(offset, bytes(length))
        elif action == 3:
            guest.zero(offset, length, unmap=random_source.random() < 0.5)
        else:
            guest.discard(offset, length)


@pytest.mark.parametrize("size", [512, 64 * KIB, ODD_SIZE])
def test_a_random_history_is_rebuilt_from_incrementals_with_the_vm_up_or_down(
    new_host: Host, tmp_path: Path, size: int
) -> None:
    random_source = random.Random(size)
    new_host.create_volume("disk", size, "cow")
    new_host.start_vm("vm", ["disk"])
    point: bytes | None = None
    since: str | None = None
    for turn in range(8):
        if not new_host.is_running("vm"):
            new_host.start_vm("vm", ["disk"])
        with new_host.guest("vm", "disk") as guest:
            change_at_random(guest, random_source)
            if random_source.random() < 0.5:
                new_host.begin_backup("vm", "backup", {"disk": since}, f"c{turn}")
                expected = content(new_host, "disk", tmp_path)
                change_at_random(guest, random_source)
        if not new_host._backups:
            new_host.stop_vm("vm")
            new_host.begin_backup("vm", "backup", {"disk": since}, f"c{turn}")
            expected = content(new_host, "disk", tmp_path)
        point = read_backup(new_host, "backup", "disk", onto=point)
        assert point == expected
        new_host.end_backup("backup")
        since = f"c{turn}"
    assert new_host.checkpoints("disk") == [f"c{turn}" for turn in range(8)]


def chain(new_host: Host, *, running: bool) -> dict[str, bytes]:
    """Checkpoints c1, c2, c3, each with the disk's data; the guest writes a cluster after each."""
    new_host.create_volume("disk", MIB, "cow")
    new_host.start_vm("vm", ["disk"])
    points: dict[str, bytes] = {}
    for number in (1, 2, 3):
        new_host.begin_backup("vm", "backup", {"disk": None}, f"c{number}")
        points[f"c{number}"] = read_backup(new_host, "backup", "disk")
        new_host.end_backup("backup")
        with new_host.guest("vm", "disk") as guest:
            guest.write(number * 128 * KIB, b"%d" % number * 64 * KIB)
    if not running:
        new_host.stop_vm("vm")
    return points


def changed_since(new_host: Host, checkpoint: str) -> str:
    new_host.begin_backup("vm", "look", {"disk": checkpoint}, None)
    with open_backup(new_host, "look", "disk", dirty=True) as client:
        found = extents_text(client, "dirty")
    new_host.end_backup("look")
    return found


AFTER_C1 = "128k:unchanged 64k:data 64k:unchanged 64k:data 64k:unchanged 64k:data 576k:unchanged"
AFTER_C2 = "256k:unchanged 64k:data 64k:unchanged 64k:data 576k:unchanged"
AFTER_C3 = "384k:unchanged 64k:data 576k:unchanged"


@pytest.mark.parametrize("running", [True, False], ids=["up", "down"])
@pytest.mark.parametrize(
    ("deleted", "left"),
    [
        ("c1", {"c2": AFTER_C2, "c3": AFTER_C3}),
        ("c2", {"c1": AFTER_C1, "c3": AFTER_C3}),
        ("c3", {"c1": AFTER_C1, "c2": AFTER_C2}),
    ],
)
def test_the_other_checkpoints_stay_correct_after_a_deletion(
    new_host: Host, tmp_path: Path, running: bool, deleted: str, left: dict[str, str]
) -> None:
    points = chain(new_host, running=running)
    new_host.delete_checkpoint(["disk"], deleted)
    assert new_host.checkpoints("disk") == list(left)
    # Read twice, because reading must change nothing.
    for _ in range(2):
        assert {checkpoint: changed_since(new_host, checkpoint) for checkpoint in left} == left
    if not running:
        new_host.start_vm("vm", ["disk"])
    with new_host.guest("vm", "disk") as guest:
        guest.write(768 * KIB, b"after the deletion")
    for number, checkpoint in enumerate(left):
        new_host.begin_backup("vm", f"later-{number}", {"disk": checkpoint}, None)
        disk = read_backup(new_host, f"later-{number}", "disk", onto=points[checkpoint])
        assert disk == content(new_host, "disk", tmp_path)
        new_host.end_backup(f"later-{number}")


@pytest.mark.parametrize("running", [True, False], ids=["up", "down"])
def test_when_all_checkpoints_are_deleted_a_new_chain_begins(new_host: Host, running: bool) -> None:
    chain(new_host, running=running)
    for checkpoint in ("c2", "c3", "c1"):
        new_host.delete_checkpoint(["disk"], checkpoint)
    assert new_host.checkpoints("disk") == []
    with pytest.raises(LabError, match="checkpoint c1 of volume disk not found"):
        new_host.begin_backup("vm", "incremental", {"disk": "c1"}, "c4")
    new_host.begin_backup("vm", "full", {"disk": None}, "c4")
    new_host.end_backup("full")
    assert new_host.checkpoints("disk") == ["c4"]
    assert changed_since(new_host, "c4") == "1024k:unchanged"


def test_a_backup_without_a_checkpoint_leaves_the_chain_alone(new_host: Host) -> None:
    chain(new_host, running=True)
    new_host.begin_backup("vm", "plain", {"disk": None}, None)
    new_host.end_backup("plain")
    assert new_host.checkpoints("disk") == ["c1", "c2", "c3"]
    assert changed_since(new_host, "c3") == AFTER_C3


def test_deleting_a_missing_checkpoint_does_nothing(new_host: Host) -> None:
    new_host.create_volume("raw", MIB, "raw")
    chain(new_host, running=True)
    new_host.delete_checkpoint(["raw", "disk"], "c2")
    new_host.delete_checkpoint(["raw", "disk"], "c2")
    assert new_host.checkpoints("disk") == ["c1", "c3"]
