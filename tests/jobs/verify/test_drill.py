# SPDX-License-Identifier: GPL-2.0-or-later
"""Rehearsals: what comes out of a point is looked at, and the result remembered."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from pitr.guest import partitions
from pitr.lab import Lab
from pitr.lab.host.filesystem import make_ext4
from tests.support.lab import MiB, make_vm
from tests.support.pitr import Pitr


def _disk_with_partitions(folder: Path, *, damaged: bool = False) -> Path:
    """An MBR with an ext4 file system of real files in partition 1, and swap in partition 2."""
    files = folder / "files"
    files.mkdir()
    for number in range(20):
        (files / f"file{number}").write_bytes(os.urandom(3000))
    part = folder / "part.ext4"
    make_ext4(part, 8 * MiB, files)
    content = bytearray(part.read_bytes())
    if damaged:
        # The inode tables, with the root folder among them.
        at = content.index((files / "file1").read_bytes()[:64])
        content[at : at + 64] = bytes(64)
        content[64 * 1024 : 512 * 1024] = b"\xff" * (448 * 1024)
    table = bytearray(512)
    for number, (kind, start, count) in enumerate(((0x83, 2048, 16384), (0x82, 18432, 2048))):
        struct.pack_into("<4xB3xII", table, 446 + 16 * number, kind, start, count)
    table[510:] = b"\x55\xaa"
    image = folder / "disk.raw"
    with image.open("wb") as file:
        file.write(table)
        file.seek(MiB)
        file.write(content)
        file.seek(9 * MiB + 4086)
        file.write(b"SWAPSPACE2")
        file.truncate(12 * MiB)
    return image


def _found(document: Any, name: str) -> dict[str, Any]:
    (disk,) = [disk for disk in document["drill"]["disks"] if disk["name"] == name]
    return {finding["what"]: finding for finding in disk["findings"]}


def test_a_point_is_proven_and_the_list_says_when(
    lab: Lab, pitr: Pitr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = lab.add_vm("web")
    vm.add_disk("system", 12 * MiB, content=_disk_with_partitions(tmp_path), bootable=True)
    vm.add_disk("empty", MiB)
    pitr.backup("web")
    assert pitr.json("list")["points"][0]["proven"] is None
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    document = pitr.json("drill", "web", "--in", scratch)
    assert document["drill"]["ok"] and document["drill"]["image"] and not list(scratch.iterdir())
    system = _found(document, "system")
    assert system["partitions"]["message"] == "a MBR with 2 partitions"
    for what in ("digests", "checksum", "qemu-img check", "e2fsck, partition 1"):
        assert system[what]["ok"] is True, what
    assert _found(document, "empty")["content"]["ok"] is None
    (point,) = pitr.json("list", "web")["points"]
    assert point["proven"] == {"time": document["drill"]["time"], "ok": True}
    assert "Proven" in pitr("list").stdout and "Last drill" in pitr("show", point["backup_id"]).stdout
    read = pitr.json("drill", "--digests-only")
    assert read["drill"]["ok"] and not read["drill"]["image"]
    assert "swap" in str(_found(read, "system")["content"])
    assert pitr.json("verify")["ok"] and pitr.json("catalog", "check")["ok"]


def test_a_broken_file_system_and_damage_are_found_and_remembered(
    lab: Lab, pitr: Pitr, tmp_path: Path
) -> None:
    vm = lab.add_vm("web")
    vm.add_disk("system", 12 * MiB, content=_disk_with_partitions(tmp_path, damaged=True))
    vm.add_disk("other", MiB)
    pitr.backup("web")
    document = pitr.json("drill", code=3)
    assert not document["drill"]["ok"]
    assert _found(document, "system")["e2fsck, partition 1"]["ok"] is False
    assert _found(document, "system")["checksum"]["ok"] is True
    assert pitr.json("list")["points"][0]["proven"]["ok"] is False
    assert "FAILED" in pitr("list").stdout
    blob = next((pitr.repository / "blobs" / vm.disks[0].id).glob("*.zst"))
    stored = bytearray(blob.read_bytes())
    stored[len(stored) // 2] ^= 1
    blob.write_bytes(stored)
    for options in ([], ["--digests-only"]):
        document = pitr.json("drill", *options, code=3)
        assert _found(document, "system")["digests"]["ok"] is False
        assert _found(document, "other")["digests"]["ok"] is None


def test_usage(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    pitr.backup(make_vm(lab, MiB, running=False).name)
    assert "does not exist" in pitr("drill", "--in", tmp_path / "none", code=2).complaint
    pitr("drill", "--in", tmp_path, "--digests-only", code=2)
    pitr("drill", "--at", "2020-06-30T22:00", code=4)
    pitr("drill", "nosuch", code=4)


def _layout(content: bytes) -> partitions.Layout:
    return partitions.look_at(lambda offset, length: content[offset : offset + length], len(content))


def test_gpt_and_logical_partitions_are_recognized() -> None:
    disk = bytearray(4 * MiB)
    disk[512:520] = b"EFI PART"
    struct.pack_into("<QII", disk, 512 + 72, 2, 4, 128)
    for number, (first, last) in enumerate(((2048, 4095), (4096, 6143), (6144, 999999))):
        struct.pack_into("<16s16xQQ", disk, 1024 + 128 * number, b"t" * 16, first, last)
    disk[MiB : MiB + 4] = b"XFSB"
    found = _layout(bytes(disk))
    assert found.table == "gpt"
    assert [(part.number, part.start, part.content) for part in found.parts] == [
        (1, MiB, "xfs"),
        (2, 2 * MiB, None),
    ]
    disk = bytearray(4 * MiB)
    disk[510:512] = disk[MiB + 510 : MiB + 512] = b"\x55\xaa"
    struct.pack_into("<4xB3xII", disk, 446, 0x05, 2048, 4096)
    struct.pack_into("<4xB3xII", disk, MiB + 446, 0x83, 1, 1000)
    # The list of logical partitions goes in a circle.
    struct.pack_into("<4xB3xII", disk, MiB + 462, 0x05, 0, 1000)
    found = _layout(bytes(disk))
    assert (found.table, [part.number for part in found.parts]) == ("mbr", [5])


@pytest.mark.parametrize("size", [0, 1, 512, 1024, 4096])
def test_nonsense_has_no_layout(size: int) -> None:
    assert _layout(b"\xff" * size).table is None
    assert _layout(bytes(size)).parts[0].content is None
    assert _layout((b"EFI PART" + b"\xff" * 600) * 9).parts is not None
