# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes: their content, plain transfers, and real file systems."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.errors import LabError, ProgramFailed, ProgramMissing
from pitr.lab.host import Host
from pitr.lab.host.filesystem import check_ext4, make_ext4
from tests.support.lab_host import KIB, MIB, content, extents_text, open_client

TIB = 1 << 40


@pytest.mark.parametrize("format", ["cow", "raw"])
@pytest.mark.parametrize("size", [512, MIB, 10487296])
def test_a_new_volume_has_the_given_content(new_host: Host, tmp_path: Path, format: str, size: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(random.Random(1).randbytes(size // 2))
    volume = new_host.create_volume("disk", size, format, content=image)
    assert new_host.volume("disk") == volume
    expected = image.read_bytes().ljust(size, b"\0")
    assert content(new_host, "disk", tmp_path) == expected
    new_host.start_vm("vm", ["disk"])
    assert content(new_host, "disk", tmp_path) == expected
    with new_host.guest("vm", "disk") as guest:
        assert guest.size == size
        assert guest.read(0, size) == expected


def test_an_impossible_volume_is_refused(new_host: Host, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1024))
    for volume_id, size, format in (
        ("a", 1000, "cow"),
        ("a", 0, "raw"),
        ("a", MIB, "vmdk"),
        ("../a", MIB, "raw"),
    ):
        with pytest.raises(LabError, match=r"must be a multiple of 512|invalid id or format"):
            new_host.create_volume(volume_id, size, format)
    with pytest.raises(LabError, match="longer"):
        new_host.create_volume("a", 512, "cow", content=image)
    new_host.create_volume("a", 512, "cow")
    with pytest.raises(LabError, match="exists"):
        new_host.create_volume("a", 512, "cow")
    with pytest.raises(LabError, match="volume b not found"):
        new_host.volume("b")


def test_a_preallocated_volume_occupies_its_space(new_host: Host) -> None:
    assert new_host.create_volume("sparse", MIB, "raw").path.stat().st_blocks * 512 < 64 * KIB
    assert new_host.create_volume("full", MIB, "raw", sparse=False).path.stat().st_blocks * 512 >= MIB


@pytest.mark.parametrize("format", ["cow", "raw"])
def test_a_download_reads_the_uploaded_data(new_host: Host, tmp_path: Path, format: str) -> None:
    new_host.create_volume("disk", MIB, format)
    data = random.Random(2).randbytes(100_000)
    url = new_host.serve_volume("disk", read_only=False)
    with open_client(new_host, url, MIB, ops=("write",)) as client:
        client.write(64 * KIB, data)
        client.zero(64 * KIB, 1000)
        client.flush()
    expected = bytes(64 * KIB + 1000) + data[1000:] + bytes(MIB - 64 * KIB - len(data))
    assert content(new_host, "disk", tmp_path) == expected
    new_host.stop_serving("disk")
    assert content(new_host, "disk", tmp_path) == expected
    with open_client(new_host, new_host.serve_volume("disk", read_only=True), MIB) as client:
        found = bytearray(MIB)
        client.read(0, found)
        assert found == expected
    new_host.stop_serving("disk")
    new_host.delete_volume("disk")
    with pytest.raises(LabError, match="volume disk not found"):
        new_host.volume("disk")


def test_a_volume_of_a_running_vm_is_not_served(new_host: Host) -> None:
    new_host.create_volume("disk", MIB, "cow")
    new_host.start_vm("vm", ["disk"])
    with pytest.raises(LabError, match="running VM"):
        new_host.serve_volume("disk", read_only=True)
    with pytest.raises(LabError, match="running VM"):
        new_host.delete_volume("disk")
    new_host.stop_vm("vm")
    new_host.serve_volume("disk", read_only=False)
    with pytest.raises(LabError, match="transferred"):
        new_host.start_vm("vm", ["disk"])


def test_a_file_system_keeps_its_files(new_host: Host, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "hello").write_text("hello " * 10000)
    image = tmp_path / "image"
    make_ext4(image, 16 * MIB, files)
    assert image.stat().st_blocks * 512 < 8 * MIB
    check_ext4(image)
    new_host.create_volume("disk", 16 * MIB, "cow", content=image)
    copy = tmp_path / "copy"
    new_host.copy_content("disk", copy)
    check_ext4(copy)
    with copy.open("r+b") as damaged:
        damaged.seek(1024)
        damaged.write(bytes(64 * KIB))
    with pytest.raises(ProgramFailed):
        check_ext4(copy)
    with pytest.raises(LabError, match="exists"):
        make_ext4(image, MIB, files)


def test_a_huge_disk_with_little_data_is_quick(new_host: Host, tmp_path: Path) -> None:
    new_host.create_volume("disk", TIB, "cow")
    new_host.start_vm("vm", ["disk"])
    with new_host.guest("vm", "disk") as guest:
        guest.write(TIB - 64 * KIB, b"end")
    new_host.begin_backup("vm", "full", {"disk": None}, "c1")
    with open_client(new_host, new_host.backup_export("full", "disk"), TIB) as client:
        assert extents_text(client, "zero") == f"{TIB // KIB - 64}k:zero 64k:data"
    new_host.end_backup("full")
    new_host.begin_backup("vm", "incremental", {"disk": "c1"}, None)
    with open_client(new_host, new_host.backup_export("incremental", "disk"), TIB, dirty=True) as client:
        assert extents_text(client, "dirty") == f"{TIB // KIB}k:unchanged"
    new_host.end_backup("incremental")
    copy = tmp_path / "copy"
    new_host.copy_content("disk", copy)
    assert copy.stat().st_size == TIB
    assert copy.stat().st_blocks * 512 < MIB


def test_missing_programs_are_all_named_at_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match="qemu-img, qemu-nbd, qemu-storage-daemon"), Host(folder):
        pass
    assert list(folder.iterdir()) == []
