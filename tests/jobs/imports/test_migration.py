# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import virtnbdbackup` and `pitr import qcow2`: whole backup histories of other programs."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pitr.system.process import run as run_program
from tests.support.independent import virtnbdbackup_of
from tests.support.lab import assert_same
from tests.support.pitr import Pitr

KiB = 1 << 10
MiB = 1 << 20
DISK = "0f6d0e3e-6ab3-4a39-9b2c-2f9f4c1f0a11"
OTHER = "1f6d0e3e-6ab3-4a39-9b2c-2f9f4c1f0a22"
CHECKPOINTS = ("aaaaaaaa-1", "bbbbbbbb-2", "cccccccc-3")


@pytest.fixture
def berlin(command: Pitr) -> Pitr:
    return command.with_environment(TZ="Europe/Berlin")


def restored(command: Pitr, point: Any, name: str, folder: Path) -> Path:
    path = folder / f"{point['backup_id']}-{name}.raw"
    command("restore", "--point", point["backup_id"], "--disk", name, "--to-file", path)
    return path


def virtnbdbackup_folder(folder: Path, lz4_request: int | None) -> dict[tuple[str, int], bytes]:
    """Two disks, a full backup and two incrementals. Neither file names nor modification times give the order."""
    folder.mkdir()
    contents: dict[tuple[str, int], bytes] = {}
    for disk, size in (("sda", 640 * KiB), ("vdb", 200 * KiB)):
        content = bytearray(random.Random(disk).randbytes(size // 2) + bytes(size // 2))
        extents = [("data", 0, size // 2), ("zero", size // 2, size // 2)]
        for number in range(3):
            if number:
                start = number * 20 * KiB
                content[start : start + 30 * KiB] = random.Random(number).randbytes(30 * KiB)
                extents = [("data", start, 30 * KiB)]
            contents[disk, number] = bytes(content)
            path = folder / f"{disk}.{'zyx'[number]}.data"
            path.write_bytes(
                virtnbdbackup_of(
                    bytes(content),
                    extents,
                    incremental=number > 0,
                    checkpoint=f"virtnbdbackup.{number}",
                    parent=f"virtnbdbackup.{number - 1}" if number else "",
                    disk_name=disk,
                    date=f"2022-07-0{number + 1}T03:00:0{1 if disk == 'sda' else 5}.250000",
                    lz4_request=lz4_request,
                )
            )
            os.utime(path, (1_000_000 - number, 1_000_000 - number))
    (folder / "checkpoints").mkdir()
    (folder / "vmconfig.virtnbdbackup.0.xml").write_text("<domain/>")
    (folder / "sda.full.data.partial").write_bytes(b"meta")
    return contents


@pytest.mark.parametrize("lz4_request", [None, 16 * KiB])
def test_a_folder_of_virtnbdbackup_becomes_points_at_their_times(
    berlin: Pitr, tmp_path: Path, lz4_request: int | None
) -> None:
    contents = virtnbdbackup_folder(tmp_path / "old", lz4_request)
    points = berlin.json("import", "virtnbdbackup", tmp_path / "old", "--vm", "web1")["imported"]
    assert [point["point"] for point in points] == [f"2022-07-0{day}T01:00:05.250000Z" for day in (1, 2, 3)]
    assert [point["lo"] for point in points] == [f"2022-07-0{day}T01:00:01.250000Z" for day in (1, 2, 3)]
    assert [point["kind"] for point in points] == ["full", "incremental", "incremental"]
    for number, point in enumerate(points):
        for disk in point["disks"]:
            assert ("became zero" in disk["note"]) == bool(number)
            path = restored(berlin, point, disk["name"], tmp_path)
            assert path.read_bytes() == contents[disk["name"], number]
    at = berlin.json("restore", "web1", "--at", "2022-07-02T12:00", "--to-file", f"{tmp_path}/at/")
    assert at["point"]["backup_id"] == points[1]["backup_id"]


def test_an_incomplete_chain_of_virtnbdbackup_is_refused(berlin: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    virtnbdbackup_folder(folder, None)
    where = ("import", "virtnbdbackup", folder, "--vm", "web1")
    middle = folder / "vdb.y.data"
    whole = middle.read_bytes()
    middle.unlink()
    assert "virtnbdbackup.1" in berlin(*where, code=2).complaint
    assert berlin.json("list")["points"] == []
    middle.write_bytes(whole[:-50])
    assert "points imported before: 1" in berlin(*where, code=1).stderr
    (folder / "copy.data").write_bytes(whole)
    middle.write_bytes(whole)
    assert "are both of disk vdb" in berlin(*where, code=2).complaint
    berlin("import", "virtnbdbackup", tmp_path / "nosuch", "--vm", "web1", code=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    berlin("import", "virtnbdbackup", empty, "--vm", "web1", code=2)


def qemu_io(path: Path, *commands: str) -> None:
    run_program(["qemu-io", "-f", "qcow2", *(word for one in commands for word in ("-c", one)), str(path)])


def qcow2_chain(folder: Path, disk: str, number: int) -> list[Path]:
    """A full backup and two incrementals as backup_vm.py writes them, with data, zeroes and growth."""
    folder.mkdir(exist_ok=True)
    names = [
        f"2022070{at + 1}2200.{CHECKPOINTS[at]}.{disk}.{'incremental' if at else 'full'}.qcow2"
        for at in range(3)
    ]
    paths = [folder / name for name in names]
    run_program(["qemu-img", "create", "-q", "-f", "qcow2", str(paths[0]), "4M"])
    qemu_io(paths[0], f"write -P {number} 0 1M", f"write -P {number + 1} 2M 200k", "write -z 3M 64k")
    for before, path, size in ((paths[0], paths[1], "4M"), (paths[1], paths[2], "5M")):
        run_program(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", before.name, "-F", "qcow2", str(path), size]
        )
    qemu_io(paths[1], f"write -P {number + 2} 512k 64k", "write -z 0 128k", "write -z 2M 64k")
    qemu_io(paths[2], f"write -P {number + 3} 100k 3k", f"write -P {number + 4} 4500k 64k")
    return paths


def test_a_backing_chain_becomes_points_with_several_disks(berlin: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    chains = {DISK: qcow2_chain(folder, DISK, 1), OTHER: qcow2_chain(folder, OTHER, 70)}
    paths = [path for chain in chains.values() for path in chain]
    points = berlin.json("import", "qcow2", *paths, "--vm", "web1")["imported"]
    assert [point["point"] for point in points] == [f"2022-07-0{day}T20:00:00Z" for day in (1, 2, 3)]
    assert [point["checkpoint_id"] for point in points] == list(CHECKPOINTS)
    assert [point["from_checkpoint_id"] for point in points] == [None, *CHECKPOINTS[:2]]
    for number, point in enumerate(points):
        assert {disk["disk_id"] for disk in point["disks"]} == set(chains)
        for disk in point["disks"]:
            assert "to the minute" in disk["note"]
            oracle = tmp_path / "oracle"
            run_program(
                [
                    "qemu-img",
                    "convert",
                    "-f",
                    "qcow2",
                    "-O",
                    "raw",
                    str(chains[disk["disk_id"]][number]),
                    str(oracle),
                ]
            )
            assert_same(restored(berlin, point, disk["disk_id"], tmp_path), oracle)
            if number:
                assert disk["data_bytes"] < MiB
    assert berlin.json("verify", "--full")["ok"]


def test_images_with_other_names_need_a_disk_and_times(berlin: Pitr, tmp_path: Path) -> None:
    full, *_ = qcow2_chain(tmp_path / "images", DISK, 3)
    plain = full.rename(full.with_name("disk.qcow2"))
    where = ("import", "qcow2", plain, "--vm", "web1")
    assert "--time" in berlin(*where, "--disk", "sda", code=2).complaint
    assert "--disk" in berlin(*where, "--time", "2022-01-01", code=2).complaint
    point = berlin.json(*where, "--disk", "sda", "--time", "2022-01-01T00:00")["imported"][0]
    assert point["point"] == "2021-12-31T23:00:00Z" and point["disks"][0]["name"] == "sda"


def test_images_that_name_other_files_are_refused(berlin: Pitr, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 65536)
    folder = tmp_path / "images"
    full, _, last = qcow2_chain(folder, DISK, 3)
    where = ("--vm", "web1", "--disk", "d", "--time", "2022-01-01")

    def overlay(name: str, backing: str, backing_format: str) -> Path:
        path = folder / name
        run_program(
            *(
                [
                    [
                        "qemu-img",
                        "create",
                        "-q",
                        "-u",
                        "-f",
                        "qcow2",
                        "-b",
                        backing,
                        "-F",
                        backing_format,
                        str(path),
                        "1M",
                    ]
                ]
            )
        )
        return path

    (folder / "link.qcow2").symlink_to(secret)
    for number, (backing, backing_format) in enumerate(
        (
            (str(secret), "raw"),
            ("../secret", "raw"),
            ("nbd://localhost:1/x", "raw"),
            ('json:{"driver":"file","filename":"/etc/passwd"}', "raw"),
            ("link.qcow2", "qcow2"),
            (full.name, "raw"),
            ("missing.qcow2", "qcow2"),
        )
    ):
        bad = overlay(f"bad{number}.qcow2", backing, backing_format)
        assert berlin("import", "qcow2", bad, *where, code=2).complaint
    data_file = folder / "external.qcow2"
    run_program(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={folder}/d.raw", str(data_file), "1M"]
    )
    assert berlin("import", "qcow2", data_file, *where, code=2).complaint
    assert "is not named" in berlin("import", "qcow2", last, "--vm", "web1", code=2).complaint
    text = folder / "text.qcow2"
    text.write_text("not an image")
    assert berlin("import", "qcow2", text, *where, code=1).complaint
    assert berlin.json("list")["points"] == []


def test_without_the_lz4_library_the_import_says_what_to_install(berlin: Pitr, tmp_path: Path) -> None:
    virtnbdbackup_folder(tmp_path / "old", 16 * KiB)
    blocked = tmp_path / "blocked" / "lz4"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('not here')")
    with berlin.with_environment(PYTHONPATH=str(blocked.parent)).process(
        "import", "virtnbdbackup", tmp_path / "old", "--vm", "web1"
    ) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "pitr[virtnbdbackup]" in said and "Traceback" not in said
    assert isinstance(process, subprocess.Popen)
