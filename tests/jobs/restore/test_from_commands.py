# SPDX-License-Identifier: GPL-2.0-or-later
"""Restores of points with external blobs, with all options of a restore. Each blob is read once."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pitr.endpoints.images.memory import MemorySource
from pitr.lab import Lab, LabVM
from pitr.ovirt.imageio.checksum import checksum
from tests.support.lab import assert_disk_is, assert_same, make_vm
from tests.support.pitr import Pitr

MiB = 1 << 20
SIZE = 12 * MiB + 512


@dataclass
class Tape:
    """A vendor's program that stores and returns streams, and logs each one it returns."""

    folder: Path
    vm: LabVM
    points: list[Any]
    oracles: list[Path]

    @property
    def get(self) -> str:
        return f"""sh -c 'echo "$1" >> "$0.log"; cat "$0/$1"' {self.folder} {{stream_id}}"""

    def blob(self, number: int) -> Path:
        stream_id: str = self.points[number]["disks"][0]["stream_id"]
        return self.folder / stream_id

    def read(self) -> Counter[str]:
        """Return how often each stream was returned since the last call."""
        log = Path(f"{self.folder}.log")
        found = Counter(log.read_text().split()) if log.exists() else Counter[str]()
        log.unlink(missing_ok=True)
        return found

    def where(self, number: int = -1) -> tuple[str, ...]:
        return ("restore", "--point", self.points[number]["backup_id"], "--get-command", self.get)


@pytest.fixture
def compress() -> str:
    return "zstd"


@pytest.fixture
def tape(compress: str, lab: Lab, pitr: Pitr, tmp_path: Path) -> Tape:
    """A full backup and two incrementals based on it, as zstd frames or as plain streams."""
    vm = make_vm(lab, SIZE)
    made = Tape(tmp_path / "tape", vm, [], [])
    made.folder.mkdir()
    put = f"""sh -c 'cat > "$0/$1"' {made.folder} {{stream_id}}"""
    for number in range(3):
        with vm.disks[0].guest() as guest:
            if number == 0:
                guest.write(0, random.Random(1).randbytes(4 * MiB))
                guest.write(9 * MiB, b"old" * 100_000)
            else:
                guest.write(number * 100_000, random.Random(number).randbytes(200_000))
                guest.zero(9 * MiB + number * 65536, 65536, unmap=False)
                guest.discard(MiB, 131072)
        made.oracles.append(tmp_path / f"oracle{number}")
        lab.disk(vm.disks[0].id).copy_content(made.oracles[-1])
        made.points.append(
            pitr.backup(vm.name, "--incremental", "--put-command", put, "--compress", compress)
        )
    return made


def test_a_dry_run_needs_no_blob_and_shows_the_result_of_a_restore(
    lab: Lab, pitr: Pitr, tape: Tape, tmp_path: Path
) -> None:
    target = tmp_path / "out.raw"
    for command in (tape.get, "nosuchprogram", None):
        get = ("--get-command", command) if command is not None else ()
        where = ("restore", "--point", tape.points[-1]["backup_id"], *get)
        planned = pitr.json(*where, "--to-file", target, "--dry-run")
        assert planned["dry_run"] is True and not target.exists()
        pitr.json(*where, "--dry-run", "--keep-going", "--to-file", target)
        pitr.json(*where, "--dry-run")
    assert not tape.read()
    done = pitr.json(*tape.where(), "--to-file", target)
    for key in ("bytes_written", "bytes_zeroed", "bytes_skipped", "bytes_read", "frames_read", "streams"):
        assert planned["disks"][0][key] == done["disks"][0][key]
    assert set(tape.read().values()) == {1}


@pytest.mark.parametrize("compress", ["zstd", "none"])
def test_restored_disks_are_verified_although_each_blob_is_read_once(
    lab: Lab, pitr: Pitr, tape: Tape, tmp_path: Path
) -> None:
    expected = tape.oracles[-1].read_bytes()
    for image_format in ("raw", "qcow2"):
        path = tmp_path / f"out.{image_format}"
        done = pitr.json(*tape.where(), "--to-file", path, "--format", image_format, "--verify")
        assert done["disks"][0]["checksum"] == checksum(MemorySource(expected))
        assert_same(path, tape.oracles[-1], image_format=image_format)
        assert set(tape.read().values()) == {1}
    disk = pitr.json(*tape.where(), "--verify")["disks"][0]
    assert disk["checksum"]
    assert_disk_is(lab, disk["target"], tape.oracles[-1], tmp_path)
    assert set(tape.read().values()) == {1}


def test_a_copy_that_differs_from_the_blobs_is_detected_and_removed(
    lab: Lab, pitr: Pitr, tape: Tape, tmp_path: Path
) -> None:
    """The restored disk lacks a byte of data, or has a byte in a zero range."""
    before = {disk.id for disk in lab.disks}
    target = tmp_path / "out.raw"
    for at in (3 * MiB, 11 * MiB):
        with mock.patch(
            "pitr.endpoints.images.raw_file.RawFileSink.flush",
            _spoiling("endpoints.images.raw_file.RawFileSink", at),
        ):
            refused = pitr(*tape.where(), "--to-file", target, "--verify", code=3)
        assert "differs from its blobs" in refused.complaint and not target.exists()
    with mock.patch(
        "pitr.ovirt.imageio.disk.ImageioSink.flush", _spoiling("ovirt.imageio.disk.ImageioSink", 11 * MiB)
    ):
        refused = pitr(*tape.where(), "--verify", code=3)
    assert "differs from its blobs" in refused.complaint
    assert {disk.id for disk in lab.disks} == before
    pitr(*tape.where(), "--to-file", target, "--verify")


def _spoiling(name: str, at: int) -> Any:
    """Return a `flush` that changes a byte of the disk first."""
    import importlib

    module, _, kind = name.rpartition(".")
    sink = getattr(importlib.import_module(f"pitr.{module}"), kind)
    flush = sink.flush

    def spoil(self: Any) -> None:
        with self.open_writer() as writer:
            writer.write(at, memoryview(b"\x99"))
        flush(self)

    return spoil


def test_a_vm_gets_its_disk_back_in_place(lab: Lab, pitr: Pitr, tape: Tape, tmp_path: Path) -> None:
    old = tape.vm.disks[0]
    tape.vm.stop()
    document = pitr.json(*tape.where(0), "--replace")
    (new,) = tape.vm.disks
    assert new.id == document["disks"][0]["target"] and document["disks"][0]["checksum"]
    assert lab.disk(old.id).name.startswith("d0_replaced_")
    assert_disk_is(lab, new.id, tape.oracles[0], tmp_path)
    assert set(tape.read().values()) == {1}


def _assert_all_but(image: Path, oracle: Path, damaged: Any) -> None:
    """The damaged ranges read as zero; all others are as they were."""
    expected = bytearray(oracle.read_bytes())
    for one in damaged:
        expected[one["start"] : one["start"] + one["length"]] = bytes(one["length"])
    assert image.read_bytes() == expected


@pytest.mark.parametrize("compress", ["zstd", "none"])
def test_keep_going_restores_everything_that_can_be_verified(
    lab: Lab, pitr: Pitr, tape: Tape, tmp_path: Path
) -> None:
    blob = tape.blob(0)
    whole = blob.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    damages = {
        "flipped": (bytes(flipped), tape.get),
        "cut": (whole[: len(whole) // 2], tape.get),
        "empty": (b"", tape.get),
        "failing": (whole, f"sh -c 'head -c 1000000 {tape.folder}/$0; exit 7' {{stream_id}}"),
    }
    for what, (content, command) in damages.items():
        blob.write_bytes(content)
        target = tmp_path / f"{what}.raw"
        where = ("restore", "--point", tape.points[-1]["backup_id"], "--get-command", command)
        pitr(*where, "--to-file", target, code=1 if what == "failing" else 3)
        assert not target.exists()
        done = pitr.json(*where, "--to-file", target, "--keep-going", code=3)["disks"][0]
        damaged = done["damaged"]
        assert damaged and all(one["message"] for one in damaged), what
        assert sum(one["length"] for one in damaged) < 5 * MiB
        if what == "flipped":
            # One frame of 1 MiB, or the part of it that no newer stream hides.
            assert sum(one["length"] for one in damaged) <= MiB
        _assert_all_but(target, tape.oracles[-1], damaged)
    # A command may exit with any code: each frame that it returned is verified by its digest.
    blob.write_bytes(whole)
    target = tmp_path / "proven.raw"
    command = f"sh -c 'cat {tape.folder}/$0; exit 7' {{stream_id}}"
    where = ("restore", "--point", tape.points[-1]["backup_id"], "--get-command", command)
    assert pitr.json(*where, "--to-file", target, "--keep-going")["disks"][0]["damaged"] == []
    assert_same(target, tape.oracles[-1])


def test_keep_going_where_an_index_is_lost(lab: Lab, pitr: Pitr, tape: Tape, tmp_path: Path) -> None:
    disk_id = tape.points[0]["disks"][0]["disk_id"]
    index = pitr.repository / "indexes" / disk_id / f"{tape.blob(0).name}.index.db"
    index.write_bytes(b"no index")
    target = tmp_path / "out.raw"
    assert "Points that do not depend on it" in pitr(*tape.where(), "--to-file", target, code=3).stderr
    done = pitr.json(*tape.where(), "--to-file", target, "--keep-going", code=3)["disks"][0]
    assert done["damaged"]
    _assert_all_but(target, tape.oracles[-1], done["damaged"])
    # A damaged disk can neither be verified nor replace a disk.
    for option in ("--verify", "--replace"):
        pitr(*tape.where(), "--keep-going", option, code=2)


def test_a_disk_without_data_is_verified_too(lab: Lab, pitr: Pitr, tmp_path: Path) -> None:
    vm = make_vm(lab, MiB)
    blob = tmp_path / "blob"
    point = pitr.backup(vm.name, "--put-command", f"sh -c 'cat > {blob}'")
    done = pitr.json(
        *("restore", "--point", point["backup_id"], "--get-command", "false"),
        *("--to-file", tmp_path / "out.raw", "--verify"),
    )
    assert done["disks"][0]["checksum"] == checksum(MemorySource(bytes(MiB)))
    with mock.patch(
        "pitr.endpoints.images.raw_file.RawFileSink.flush",
        _spoiling("endpoints.images.raw_file.RawFileSink", 77),
    ):
        pitr(
            *("restore", "--point", point["backup_id"], "--get-command", "false"),
            *("--to-file", tmp_path / "spoiled.raw", "--verify"),
            code=3,
        )
