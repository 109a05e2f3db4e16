# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import` of files as real programs leave them: names, levels, compression, chains and leftovers."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pitr.system.process import run as run_program
from tests.jobs.imports.test_migration import CHECKPOINTS, DISK, qcow2_chain, qemu_io, restored
from tests.support.independent import virtnbdbackup_of
from tests.support.pitr import Pitr

KiB = 1 << 10
MiB = 1 << 20


@pytest.fixture
def berlin(command: Pitr) -> Pitr:
    return command.with_environment(TZ="Europe/Berlin")


class Folder:
    """A folder of virtnbdbackup, with one disk content that each file of a disk changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.contents: dict[str, bytes] = {}
        self._now: dict[str, bytearray] = {}

    def write(
        self, name: str, checkpoint: str, parent: str, hour: int, *, keep: bool = True, level: int = 2
    ) -> Path:
        """Write a file; `keep` tells whether later files contain its change, too."""
        disk = name.split(".", maxsplit=1)[0]
        content = self._now.setdefault(disk, bytearray(random.Random(disk).randbytes(256 * KiB)))
        whole = not parent
        changed = content if keep else bytearray(content)
        start = 0 if whole else hour * 4 * KiB
        length = len(content) if whole else 8 * KiB
        if not whole:
            changed[start : start + length] = random.Random(name).randbytes(length)
        path = self.path / name
        path.write_bytes(
            virtnbdbackup_of(
                bytes(changed),
                [("data", start, length)],
                incremental=not whole,
                checkpoint=checkpoint,
                parent=parent,
                disk_name=disk,
                date=f"2026-11-25T{hour:02}:00:00.250000",
                lz4_request=16 * KiB,
                level=level,
            )
        )
        self.contents[name] = bytes(changed)
        return path


def import_folder(command: Pitr, folder: Path) -> list[Any]:
    points: list[Any] = command.json("import", "virtnbdbackup", folder)["imported"]
    again = command.json("import", "virtnbdbackup", folder)
    assert again["imported"] == [] and len(command.json("list")["points"]) == len(points)
    return points


@pytest.mark.parametrize("level", [0, 2])
def test_the_level_of_compression_is_a_number(berlin: Pitr, tmp_path: Path, level: int) -> None:
    folder = Folder(tmp_path / "web1")
    folder.write("sda.full.data", "virtnbdbackup.0", "", 1, level=level)
    (point,) = import_folder(berlin, folder.path)
    assert restored(berlin, point, "sda", tmp_path).read_bytes() == folder.contents["sda.full.data"]


def test_differential_backups_are_based_on_the_newest_full_or_incremental(
    berlin: Pitr, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "web1")
    folder.write("sda.full.data", "virtnbdbackup.0", "", 1)
    folder.write("vdb.full.data", "virtnbdbackup.0", "", 1)
    for hour in (2, 3):
        for name in ("sda", "vdb"):
            folder.write(
                f"{name}.diff.160000{hour}.data", "virtnbdbackup.1", "virtnbdbackup.0", hour, keep=False
            )
    folder.write("sda.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 4)
    folder.write("vdb.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 4)
    folder.write("sda.diff.1600005.data", "virtnbdbackup.2", "virtnbdbackup.1", 5, keep=False)
    folder.write("vdb.diff.1600005.data", "virtnbdbackup.2", "virtnbdbackup.1", 5, keep=False)
    points = import_folder(berlin, folder.path)
    assert [point["point"][11:13] for point in points] == ["00", "01", "02", "03", "04"]
    levels = ["full", "diff.1600002", "diff.1600003", "inc.virtnbdbackup.1", "diff.1600005"]
    for point, level in zip(points, levels, strict=True):
        assert {disk["name"] for disk in point["disks"]} == {"sda", "vdb"}
        for name in ("sda", "vdb"):
            expected = folder.contents[f"{name}.{level}.data"]
            assert restored(berlin, point, name, tmp_path).read_bytes() == expected
    bases = [point["parent_id"] for point in points]
    assert bases == [None, *[points[0]["backup_id"]] * 3, points[3]["backup_id"]]
    assert berlin.json("verify", "--full")["ok"]


def test_an_incremental_backup_of_a_vm_that_was_down_names_its_base(berlin: Pitr, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "web1")
    folder.write("sda.full.data", "virtnbdbackup.0", "", 1)
    folder.write("sda.inc.virtnbdbackup.0.data", "virtnbdbackup.0", "virtnbdbackup.0", 2, keep=False)
    folder.write("sda.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 3)
    points = import_folder(berlin, folder.path)
    for point, name in zip(points, folder.contents, strict=True):
        assert restored(berlin, point, "sda", tmp_path).read_bytes() == folder.contents[name]


def test_a_partial_file_is_named_and_its_disk_is_missing(berlin: Pitr, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "web1")
    for name in ("sda", "vda"):
        folder.write(f"{name}.full.data", "virtnbdbackup.0", "", 1)
    folder.write("sda.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 2)
    whole = folder.write("vda.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 2)
    partial = whole.with_name(f"{whole.name}.partial")
    partial.write_bytes(whole.read_bytes()[:-1000])
    whole.unlink()
    empty = folder.path / "vdc.inc.virtnbdbackup.1.data.partial"
    empty.write_bytes(b"")
    done = berlin("import", "virtnbdbackup", folder.path)
    assert partial.name in done.stderr and empty.name in done.stderr
    newer, older = berlin.json("list")["points"]
    assert older["left_out"] == []
    by_name = {disk["name"]: disk["disk_id"] for disk in older["disks"]}
    left_out = {disk["name"]: disk for disk in newer["left_out"]}
    assert set(left_out) == {"vda", "vdc"} and left_out["vda"]["disk_id"] == by_name["vda"]
    assert partial.name in left_out["vda"]["reason"] and "incomplete" in left_out["vda"]["reason"]
    assert older["complete"] and not newer["complete"]
    assert {disk["name"] for disk in newer["missing_disks"]} == {"vda", "vdc"}
    assert [disk["name"] for disk in newer["disks"]] == ["sda"]
    assert berlin.json("import", "virtnbdbackup", folder.path)["imported"] == []


def test_a_disk_without_any_file_is_missing_too(berlin: Pitr, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "web1")
    for name in ("sda", "vda"):
        folder.write(f"{name}.full.data", "virtnbdbackup.0", "", 1)
        (folder.path / f"{name}.full.data.partial").write_bytes(b"meta")
    folder.write("sda.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 2)
    older, newer = import_folder(berlin, folder.path)
    # A partial file of an earlier attempt does not count beside the whole file.
    assert older["complete"] and older["left_out"] == []
    assert [disk["name"] for disk in newer["missing_disks"]] == ["vda"]


def test_partial_files_of_differential_runs_do_not_mix_the_runs(berlin: Pitr, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "web1")
    for name in ("sda", "vda"):
        folder.write(f"{name}.full.data", "virtnbdbackup.0", "", 1)
    folder.write("sda.diff.1600002.data", "virtnbdbackup.1", "virtnbdbackup.0", 2, keep=False)
    stopped = folder.write("vda.diff.1600002.data", "virtnbdbackup.1", "virtnbdbackup.0", 2, keep=False)
    stopped.with_name(f"{stopped.name}.partial").write_bytes(stopped.read_bytes()[:-1])
    stopped.unlink()
    for name in ("vda", "sda"):
        folder.write(f"{name}.diff.1600003.data", "virtnbdbackup.1", "virtnbdbackup.0", 3, keep=False)
    points = import_folder(berlin, folder.path)
    assert [[disk["name"] for disk in point["missing_disks"]] for point in points] == [[], ["vda"], []]
    assert [len(point["disks"]) for point in points] == [2, 1, 2]


def test_plain_images_of_virtnbdbackup(berlin: Pitr, tmp_path: Path) -> None:
    folder = tmp_path / "web1"
    folder.mkdir()
    contents = {name: random.Random(name).randbytes(64 * KiB) + bytes(64 * KiB) for name in ("sda", "vdb")}
    for name, content in contents.items():
        (folder / f"{name}.full.data").write_bytes(content)
        os.utime(folder / f"{name}.full.data", (1_700_000_000, 1_700_000_000))
    (point,) = import_folder(berlin, folder)
    assert point["point"] == "2023-11-14T22:13:20Z" and "last changed" in point["disks"][0]["note"]
    for name, content in contents.items():
        assert restored(berlin, point, name, tmp_path).read_bytes() == content


def test_a_raw_disk_is_an_image_beside_the_streams_of_its_run(berlin: Pitr, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "web1")
    folder.write("sda.full.data", "virtnbdbackup.0", "", 1)
    folder.write("sda.inc.virtnbdbackup.1.data", "virtnbdbackup.1", "virtnbdbackup.0", 2)
    (folder.path / "vdb.copy.data").write_bytes(b"r" * 64 * KiB)
    first, _ = import_folder(berlin, folder.path)
    assert {disk["name"] for disk in first["disks"]} == {"sda", "vdb"}
    assert restored(berlin, first, "vdb", tmp_path).read_bytes() == b"r" * 64 * KiB


def test_the_folder_names_the_vm(berlin: Pitr, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "folder1")
    folder.write("sda.full.data", "virtnbdbackup.0", "", 1)
    names = []
    (folder.path / "vmconfig.virtnbdbackup.0.xml").write_text(
        "<domain type='kvm'>\n  <name>of-xml</name>\n  <uuid>76c5a471-2bed-4eea-ac53-2d8865f1023c</uuid>\n</domain>"
    )
    (folder.path / "of-cpt.cpt").write_text('["virtnbdbackup.0"]')
    for number, gone in enumerate(("vmconfig.virtnbdbackup.0.xml", "of-cpt.cpt", None)):
        other = berlin.with_environment(PITR_REPO=str(tmp_path / f"repository{number}"))
        other("init")
        names.append(other.json("import", "virtnbdbackup", folder.path)["imported"][0]["vm"])
        if gone is not None:
            (folder.path / gone).unlink()
    assert [vm["name"] for vm in names] == ["of-xml", "of-cpt", "folder1"]
    assert names[0]["id"] == "76c5a471-2bed-4eea-ac53-2d8865f1023c"
    assert (
        berlin.json("import", "virtnbdbackup", folder.path, "--vm", "mine")["imported"][0]["vm"]["name"]
        == "mine"
    )


def test_names_of_backup_vm_with_seconds_are_local_time(berlin: Pitr, tmp_path: Path) -> None:
    paths = [
        path.rename(path.with_name(path.name.replace("2200.", "220007.", 1)))
        for path in reversed(qcow2_chain(tmp_path / "web1", DISK, 1))
    ][::-1]
    for before, path in itertools.pairwise(paths):
        run_program(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", before.name, str(path)])
    points = berlin.json("import", "qcow2", *paths)["imported"]
    assert [point["point"] for point in points] == [f"2022-07-0{day}T20:00:07Z" for day in (1, 2, 3)]
    assert [point["checkpoint_id"] for point in points] == list(CHECKPOINTS)
    assert {point["vm"]["name"] for point in points} == {"web1"}
    for point in points:
        (disk,) = point["disks"]
        assert disk["disk_id"] == DISK and "to the minute" not in (disk["note"] or "")


def test_a_chain_of_qcow2_on_a_raw_base(berlin: Pitr, tmp_path: Path) -> None:
    base, top = tmp_path / "base.img", tmp_path / "top.qcow2"
    content = bytearray(random.Random(1).randbytes(MiB))
    # The content of a raw image never decides its format.
    content[:8] = b"QFI\xfb\0\0\0\3"
    base.write_bytes(content)
    run_program(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw", str(top), "1M"])
    qemu_io(top, "write -P 7 128k 64k")
    where = ("--vm", "web1", "--disk", "sda", "--time", "2026-11-24T22:00", "--time", "2026-11-25T22:00")
    points = berlin.json("import", "qcow2", base, top, *where)["imported"]
    assert [point["kind"] for point in points] == ["full", "incremental"]
    assert restored(berlin, points[0], "sda", tmp_path).read_bytes() == content
    content[128 * KiB : 192 * KiB] = b"\7" * 64 * KiB
    assert restored(berlin, points[1], "sda", tmp_path).read_bytes() == content
    assert berlin.json("import", "qcow2", base, top, *where)["imported"] == []


@pytest.mark.parametrize("image_format", ["raw", "vmdk", "vdi", "vhdx", "vpc"])
def test_images_of_other_hypervisors(berlin: Pitr, tmp_path: Path, image_format: str) -> None:
    raw, image = tmp_path / "source.raw", tmp_path / f"disk.{image_format}"
    raw.write_bytes(random.Random(1).randbytes(MiB) + bytes(MiB) + b"x" * MiB)
    options = ["-o", "force_size=on"] if image_format == "vpc" else []
    run_program(["qemu-img", "convert", "-f", "raw", "-O", image_format, *options, str(raw), str(image)])
    where = (image_format, image, "--vm", "web1", "--disk", "sda", "--time", "2026-11-25T22:00")
    point = berlin.json("import", *where)["imported"][0]
    assert restored(berlin, point, "sda", tmp_path).read_bytes() == raw.read_bytes()
    assert berlin.json("import", *where)["imported"] == []


def test_a_vmdk_that_names_another_file_is_refused(berlin: Pitr, tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    run_program(
        ["qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", str(image), "1M"]
    )
    where = ("--vm", "web1", "--disk", "sda", "--time", "2026-11-25T22:00")
    assert "another file" in berlin("import", "vmdk", image, *where, code=2).complaint
    assert berlin.json("list")["points"] == []


def test_an_image_in_use_is_refused_with_advice(berlin: Pitr, tmp_path: Path) -> None:
    paths = qcow2_chain(tmp_path / "web1", DISK, 1)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(paths[-1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()
        complaint = berlin("import", "qcow2", *paths, code=5).complaint
        process.stdin.close()
    assert "open for writing" in complaint and "snapshot" in complaint
    assert berlin.json("list")["points"] == []
    assert len(berlin.json("import", "qcow2", *paths)["imported"]) == 3
