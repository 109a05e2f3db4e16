# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of volumes whose VM is down."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.errors import LabError, ProgramFailed
from pitr.lab.host import Host
from pitr.lab.host.volume import change_bitmap, stored_bitmaps
from tests.support.lab_host import KIB, MIB, content, extents_text, open_backup, read_backup


def test_an_incremental_of_a_stopped_vm_contains_its_earlier_writes(new_host: Host, tmp_path: Path) -> None:
    new_host.create_volume("system", MIB, "cow")
    new_host.start_vm("vm", ["system"])
    with new_host.guest("vm", "system") as guest:
        guest.write(0, b"A" * 512 * KIB)
    new_host.stop_vm("vm")
    new_host.begin_backup("vm", "full", {"system": None}, "c1")
    full = read_backup(new_host, "full", "system")
    new_host.end_backup("full")
    assert full == content(new_host, "system", tmp_path)

    new_host.start_vm("vm", ["system"])
    with new_host.guest("vm", "system") as guest:
        guest.write(64 * KIB, b"B" * 64 * KIB)
        guest.discard(128 * KIB, 64 * KIB)
        guest.zero(256 * KIB, 64 * KIB, unmap=True)
    new_host.stop_vm("vm")
    new_host.begin_backup(None, "incremental", {"system": "c1"}, "c2")
    with open_backup(new_host, "incremental", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == (
            "64k:unchanged 64k:data 64k:zero 64k:unchanged 64k:zero 704k:unchanged"
        )
    assert read_backup(new_host, "incremental", "system", onto=full) == content(new_host, "system", tmp_path)
    new_host.end_backup("incremental")
    assert new_host.checkpoints("system") == ["c1", "c2"]
    assert stored_bitmaps(new_host.volume("system")) == {"c1", "c2"}


def test_a_raw_volume_beside_a_cow_one_is_read_in_full(new_host: Host, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"raw" * 1000)
    new_host.create_volume("system", MIB, "cow")
    new_host.create_volume("data", MIB, "raw", content=image)
    new_host.begin_backup(None, "first", {"system": None, "data": None}, "c1")
    new_host.end_backup("first")
    new_host.begin_backup(None, "second", {"system": "c1", "data": None}, "c2")
    with open_backup(new_host, "second", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == "1024k:unchanged"
    assert read_backup(new_host, "second", "data") == content(new_host, "data", tmp_path)
    new_host.end_backup("second")


def test_a_volume_in_a_backup_refuses_other_operations(new_host: Host) -> None:
    new_host.create_volume("system", MIB, "cow")
    new_host.begin_backup(None, "full", {"system": None}, "c1")
    for use in (
        lambda: new_host.start_vm("vm", ["system"]),
        lambda: new_host.serve_volume("system", read_only=True),
        lambda: new_host.delete_volume("system"),
        lambda: new_host.delete_checkpoint(["system"], "c1"),
        lambda: new_host.begin_backup(None, "another", {"system": None}, "c2"),
    ):
        with pytest.raises(LabError, match="being backed up"):
            use()
    new_host.end_backup("full")
    new_host.start_vm("vm", ["system"])


def test_a_backup_that_cannot_start_keeps_the_bitmaps(new_host: Host) -> None:
    for name in ("first", "second"):
        new_host.create_volume(name, MIB, "cow")
    new_host.begin_backup(None, "full", {"first": None, "second": None}, "c1")
    new_host.end_backup("full")
    # A bitmap of this name that is no checkpoint of the lab: the second volume fails in its last step.
    change_bitmap(new_host.volume("second"), "c2", ["--add"])
    with pytest.raises(ProgramFailed):
        new_host.begin_backup(None, "incremental", {"first": "c1", "second": "c1"}, "c2")
    assert stored_bitmaps(new_host.volume("first")) == {"c1"}
    new_host.start_vm("vm", ["first", "second"])
    for name in ("first", "second"):
        with new_host.guest("vm", name) as guest:
            guest.write(0, b"R" * 64 * KIB)
    new_host.begin_backup("vm", "later", {"first": "c1", "second": "c1"}, "c3")
    for name in ("first", "second"):
        with open_backup(new_host, "later", name, dirty=True) as client:
            assert extents_text(client, "dirty") == "64k:data 960k:unchanged"
    new_host.end_backup("later")
