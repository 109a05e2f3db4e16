# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of volumes whose VM is down."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.errors import LabError, ProgramFailed
from pitr.lab.host import Host
from pitr.lab.host.volume import change_bitmap, stored_bitmaps
from tests.support.lab_host import KIB, MIB, content, extents_text, open_backup, read_backup


def test_an_incremental_of_a_stopped_vm_has_what_it_wrote_while_it_ran(host: Host, tmp_path: Path) -> None:
    host.create_volume("system", MIB, "cow")
    host.start_vm("vm", ["system"])
    with host.guest("vm", "system") as guest:
        guest.write(0, b"A" * 512 * KIB)
    host.stop_vm("vm")
    host.begin_backup("vm", "full", {"system": None}, "c1")
    full = read_backup(host, "full", "system")
    host.end_backup("full")
    assert full == content(host, "system", tmp_path)

    host.start_vm("vm", ["system"])
    with host.guest("vm", "system") as guest:
        guest.write(64 * KIB, b"B" * 64 * KIB)
        guest.discard(128 * KIB, 64 * KIB)
        guest.zero(256 * KIB, 64 * KIB, unmap=True)
    host.stop_vm("vm")
    host.begin_backup(None, "incremental", {"system": "c1"}, "c2")
    with open_backup(host, "incremental", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == (
            "64k:unchanged 64k:data 64k:zero 64k:unchanged 64k:zero 704k:unchanged"
        )
    assert read_backup(host, "incremental", "system", onto=full) == content(host, "system", tmp_path)
    host.end_backup("incremental")
    assert host.checkpoints("system") == ["c1", "c2"]
    assert stored_bitmaps(host.volume("system")) == {"c1", "c2"}


def test_a_raw_volume_beside_a_cow_one_is_read_in_full(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"raw" * 1000)
    host.create_volume("system", MIB, "cow")
    host.create_volume("data", MIB, "raw", content=image)
    host.begin_backup(None, "first", {"system": None, "data": None}, "c1")
    host.end_backup("first")
    host.begin_backup(None, "second", {"system": "c1", "data": None}, "c2")
    with open_backup(host, "second", "system", dirty=True) as client:
        assert extents_text(client, "dirty") == "1024k:unchanged"
    assert read_backup(host, "second", "data") == content(host, "data", tmp_path)
    host.end_backup("second")


def test_a_volume_that_is_backed_up_is_not_for_anything_else(host: Host) -> None:
    host.create_volume("system", MIB, "cow")
    host.begin_backup(None, "full", {"system": None}, "c1")
    for use in (
        lambda: host.start_vm("vm", ["system"]),
        lambda: host.serve_volume("system", read_only=True),
        lambda: host.delete_volume("system"),
        lambda: host.delete_checkpoint(["system"], "c1"),
        lambda: host.begin_backup(None, "another", {"system": None}, "c2"),
    ):
        with pytest.raises(LabError, match="being backed up"):
            use()
    host.end_backup("full")
    host.start_vm("vm", ["system"])


def test_a_backup_that_cannot_begin_leaves_the_bitmaps_as_they_were(host: Host) -> None:
    for name in ("first", "second"):
        host.create_volume(name, MIB, "cow")
    host.begin_backup(None, "full", {"first": None, "second": None}, "c1")
    host.end_backup("full")
    # A bitmap of this name that is no checkpoint of the lab: the second volume fails in its last step.
    change_bitmap(host.volume("second"), "c2", ["--add"])
    with pytest.raises(ProgramFailed):
        host.begin_backup(None, "incremental", {"first": "c1", "second": "c1"}, "c2")
    assert stored_bitmaps(host.volume("first")) == {"c1"}
    host.start_vm("vm", ["first", "second"])
    for name in ("first", "second"):
        with host.guest("vm", name) as guest:
            guest.write(0, b"R" * 64 * KIB)
    host.begin_backup("vm", "later", {"first": "c1", "second": "c1"}, "c3")
    for name in ("first", "second"):
        with open_backup(host, "later", name, dirty=True) as client:
            assert extents_text(client, "dirty") == "64k:data 960k:unchanged"
    host.end_backup("later")
