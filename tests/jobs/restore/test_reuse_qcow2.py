# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore --to-file X --reuse` with qcow2 files and NBD exports: only what they lack is written."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from pitr.endpoints.images.partial_file import hold
from pitr.endpoints.images.qemu_nbd import QemuNbd
from tests.support.pitr import Pitr

KiB = 1 << 10
MiB = 1 << 20
SIZE = 6 * MiB

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def content() -> bytearray:
    data = bytearray(SIZE)
    data[: 2 * MiB] = os.urandom(2 * MiB)
    data[4 * MiB : 5 * MiB] = os.urandom(MiB)
    return data


@pytest.fixture
def stored(tmp_path: Path, content: bytearray) -> Pitr:
    pitr = Pitr({"PITR_REPO": str(tmp_path / "repo"), "HOME": str(tmp_path)})
    pitr("init", tmp_path / "repo")
    image = tmp_path / "image.raw"
    image.write_bytes(content)
    pitr("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    return pitr


def _restored(pitr: Pitr, target: Path | str, *more: str) -> dict[str, int]:
    done = pitr("restore", "web", "--at", "now", "--to-file", target, "--reuse", "--output", "json", *more)
    [disk] = done.json["disks"]
    assert disk["bytes_written"] + disk["bytes_zeroed"] + disk["bytes_skipped"] == SIZE
    found: dict[str, int] = disk
    return found


def _qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def _qcow2(path: Path, disk: bytes | bytearray) -> Path:
    raw = path.with_suffix(".source")
    raw.write_bytes(disk)
    _qemu_img("convert", "-q", "-f", "raw", "-O", "qcow2", raw, path)
    raw.unlink()
    return path


def _disk(path: Path) -> bytes:
    raw = path.with_suffix(".back")
    raw.unlink(missing_ok=True)
    _qemu_img("check", "-q", path)
    _qemu_img("convert", "-q", "-f", "qcow2", "-O", "raw", path, raw)
    return raw.read_bytes()


def _old(content: bytearray) -> bytearray:
    """The disk a while ago: two blocks of data and one of zeroes differ."""
    old = bytearray(content)
    old[100:200] = b"x" * 100
    old[4 * MiB + 64 * KiB : 4 * MiB + 128 * KiB] = bytes(64 * KiB)
    old[3 * MiB : 3 * MiB + 10] = b"leftovers!"
    return old


def test_only_what_differs_is_written_to_a_qcow2_file(
    stored: Pitr, content: bytearray, tmp_path: Path
) -> None:
    target = _qcow2(tmp_path / "old.qcow2", _old(content))
    before = target.read_bytes()
    planned = _restored(stored, target, "--dry-run")
    assert target.read_bytes() == before
    done = _restored(stored, target, "--verify")
    assert _disk(target) == content
    for counted in ("bytes_written", "bytes_zeroed", "bytes_skipped"):
        assert planned[counted] == done[counted]
    assert done["bytes_written"] == 2 * 64 * KiB and 0 < done["bytes_zeroed"] <= MiB
    again = _restored(stored, target)
    assert again["bytes_written"] == again["bytes_zeroed"] == 0 and again["bytes_skipped"] == SIZE


@pytest.mark.parametrize("size", [MiB + 17 * 512, SIZE + 2 * MiB])
def test_a_qcow2_file_of_another_length_gets_the_disks(
    stored: Pitr, content: bytearray, tmp_path: Path, size: int
) -> None:
    target = _qcow2(tmp_path / "old.qcow2", (bytes(content) + os.urandom(2 * MiB))[:size])
    planned = _restored(stored, target, "--dry-run")
    done = _restored(stored, target)
    assert _disk(target) == content
    # The block at the old end may be counted in part only.
    assert 0 <= done["bytes_written"] - planned["bytes_written"] < 64 * KiB
    assert done["bytes_written"] <= max(0, 3 * MiB + 64 * KiB - size)


def test_random_qcow2_files_become_the_disk(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    chance = random.Random(16)
    for number in range(3):
        old = bytearray(content)
        for _ in range(chance.randrange(1, 12)):
            start, length = chance.randrange(SIZE), chance.choice((1, 511, 4 * KiB, 70 * KiB, 2 * MiB))
            end = min(SIZE, start + length)
            old[start:end] = bytes(end - start) if chance.random() < 0.5 else chance.randbytes(end - start)
        target = _qcow2(tmp_path / f"{number}.qcow2", old[: chance.randrange(1, SIZE // 512) * 512])
        _restored(stored, target)
        assert _disk(target) == content


def test_a_qcow2_restore_that_did_not_end_is_completed(
    stored: Pitr, content: bytearray, tmp_path: Path
) -> None:
    target = tmp_path / "disk.qcow2"
    half = bytearray(content)
    half[MiB:] = bytes(SIZE - MiB)
    partial = _qcow2(tmp_path / "half.qcow2", half).rename(tmp_path / "disk.qcow2.pitr-partial")
    done = _restored(stored, target)
    assert _disk(target) == content and not partial.exists()
    assert done["bytes_written"] == 2 * MiB


def test_an_error_keeps_the_qcow2_file_as_a_partial_file(
    stored: Pitr, content: bytearray, tmp_path: Path
) -> None:
    target = _qcow2(tmp_path / "disk.qcow2", bytes(SIZE))
    [blob] = (tmp_path / "repo" / "blobs").rglob("*.sparse.zst")
    whole = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
    stored("restore", "web", "--at", "now", "--to-file", target, "--reuse", code=3)
    assert not target.exists() and (tmp_path / "disk.qcow2.pitr-partial").exists()
    blob.write_bytes(whole)
    stored("verify")
    _restored(stored, target)
    assert _disk(target) == content


def test_images_that_do_not_fit_are_refused_and_stay(
    stored: Pitr, content: bytearray, tmp_path: Path
) -> None:
    def refused(path: Path, *more: str, code: int = 2) -> str:
        before = path.read_bytes()
        result = stored("restore", "web", "--at", "now", "--to-file", path, "--reuse", *more, code=code)
        assert path.read_bytes() == before
        return result.complaint

    image = _qcow2(tmp_path / "good.qcow2", content)
    overlay = tmp_path / "overlay.qcow2"
    _qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay)
    assert "backing file" in refused(overlay)
    raw = tmp_path / "raw.img"
    raw.write_bytes(content)
    assert "not a qcow2 image" in refused(raw, "--format", "qcow2")
    named_raw = _qcow2(tmp_path / "named.qcow2", content).rename(tmp_path / "named.img")
    assert "--format qcow2" in refused(named_raw)
    with image.open("rb") as other:
        hold(other.fileno(), image)
        assert "another pitr" in refused(image)
    damaged = _qcow2(tmp_path / "damaged.qcow2", content)
    table = int.from_bytes(damaged.read_bytes()[40:48], "big")
    with damaged.open("r+b") as file:
        file.seek(table)
        file.write(bytes((0x80,)) + b"\xff" * 7)
    stored("restore", "web", "--at", "now", "--to-file", damaged, "--reuse", code=1)
    assert (tmp_path / "damaged.qcow2.pitr-partial").exists()


@pytest.mark.parametrize("behind", [0, MiB])
def test_only_what_differs_is_written_to_an_nbd_export(
    stored: Pitr, content: bytearray, tmp_path: Path, behind: int
) -> None:
    image = tmp_path / "export.raw"
    image.write_bytes(_old(content) + b"z" * behind)
    with QemuNbd(image, "raw", read_only=False) as server:
        planned = _restored(stored, server.url, "--dry-run")
        done = _restored(stored, server.url, "--verify")
        assert done["bytes_written"] == planned["bytes_written"] == 2 * 64 * KiB
        assert image.read_bytes() == content + b"z" * behind
        assert _restored(stored, server.url)["bytes_skipped"] == SIZE


def test_an_export_with_one_connection_is_enough(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    image = tmp_path / "export.raw"
    image.write_bytes(_old(content))
    # Without --persistent and --shared, the server takes one connection, and exits after it.
    socket = tmp_path / "one"
    with subprocess.Popen(
        ["qemu-nbd", f"--socket={socket}", "--format=raw", "--fork", f"--pid-file={tmp_path / 'pid'}", image]
    ) as starting:
        assert starting.wait() == 0
    done = _restored(stored, f"nbd+unix:///?socket={socket}")
    assert image.read_bytes() == content and done["bytes_written"] == 2 * 64 * KiB


def test_an_nbd_export_is_written_only_if_you_say_so(
    stored: Pitr, content: bytearray, tmp_path: Path
) -> None:
    image = tmp_path / "export.raw"
    image.write_bytes(bytes(MiB))
    with QemuNbd(image, "raw", read_only=False) as server:

        def refused(*more: str) -> str:
            return stored("restore", "web", "--at", "now", "--to-file", server.url, *more, code=2).complaint

        assert "--reuse" in refused()
        assert "--format" in refused("--reuse", "--format", "qcow2")
        assert f"has {MiB} bytes" in refused("--reuse")
    assert image.read_bytes() == bytes(MiB)
    assert (
        "NBD" in stored("restore", "web", "--at", "now", "--to-file", "nbd://", "--reuse", code=2).complaint
    )
