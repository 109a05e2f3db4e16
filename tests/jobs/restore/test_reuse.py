# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr restore --to-file X --reuse`: only what the image lacks is written."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pitr.endpoints.images.partial_file import hold
from tests.support.pitr import Pitr

KiB = 1 << 10
MiB = 1 << 20
SIZE = 12 * MiB


@pytest.fixture
def content() -> bytearray:
    data = bytearray(SIZE)
    data[: 5 * MiB] = os.urandom(5 * MiB)
    data[8 * MiB : 9 * MiB] = os.urandom(MiB)
    return data


@pytest.fixture
def stored(tmp_path: Path, content: bytearray) -> Pitr:
    pitr = Pitr({"PITR_REPO": str(tmp_path / "repo"), "HOME": str(tmp_path)})
    pitr("init", tmp_path / "repo")
    image = tmp_path / "image.raw"
    image.write_bytes(content)
    pitr("import", "raw", image, "--vm", "web", "--disk", "sys", "--time", "2026-11-01")
    return pitr


def _restored(pitr: Pitr, path: Path, *more: str) -> dict[str, int]:
    done = pitr("restore", "web", "--at", "now", "--to-file", path, "--reuse", "--output", "json", *more)
    [disk] = done.json["disks"]
    assert disk["bytes_written"] + disk["bytes_zeroed"] + disk["bytes_skipped"] == SIZE
    found: dict[str, int] = disk
    return found


def test_only_what_differs_is_written(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    target = tmp_path / "old.raw"
    old = bytearray(content)
    old[100:200] = b"x" * 100
    old[8 * MiB + 64 * KiB : 8 * MiB + 128 * KiB] = bytes(64 * KiB)
    old[10 * MiB : 10 * MiB + 10] = b"leftovers!"
    target.write_bytes(old)
    planned = _restored(stored, target, "--dry-run")
    assert target.read_bytes() == old
    done = _restored(stored, target)
    assert target.read_bytes() == content
    for counted in ("bytes_written", "bytes_zeroed", "bytes_skipped"):
        assert planned[counted] == done[counted]
    assert done["bytes_written"] == 2 * 64 * KiB
    assert 0 < done["bytes_zeroed"] <= MiB
    again = _restored(stored, target)
    assert again["bytes_written"] == again["bytes_zeroed"] == 0 and again["bytes_skipped"] == SIZE


@pytest.mark.parametrize("size", [0, 3 * MiB + 17, SIZE + 5 * MiB])
def test_an_image_of_another_length_gets_the_disks(
    stored: Pitr, content: bytearray, tmp_path: Path, size: int
) -> None:
    target = tmp_path / "old.raw"
    target.write_bytes((bytes(content) + os.urandom(5 * MiB))[:size])
    done = _restored(stored, target, "--verify")
    assert target.read_bytes() == content
    assert done["bytes_written"] <= max(0, 9 * MiB - size)


def test_a_restore_that_did_not_end_is_completed(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    partial = tmp_path / "disk.raw.pitr-partial"
    partial.write_bytes(content[: 4 * MiB])
    os.truncate(partial, SIZE)
    done = _restored(stored, target)
    assert target.read_bytes() == content and not partial.exists()
    assert done["bytes_written"] == 2 * MiB
    partial.touch()
    refused = stored("restore", "web", "--at", "now", "--to-file", target, "--reuse", code=2)
    assert "both exist" in refused.complaint


def test_random_images_become_the_disk(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    chance = random.Random(15)
    target = tmp_path / "disk.raw"
    for _ in range(5):
        old = bytearray(content)
        for _ in range(chance.randrange(12)):
            start, length = chance.randrange(SIZE), chance.choice((1, 511, 4 * KiB, 70 * KiB, 2 * MiB))
            end = min(SIZE, start + length)
            old[start:end] = bytes(end - start) if chance.random() < 0.5 else chance.randbytes(end - start)
        target.write_bytes(old[: chance.choice((SIZE, SIZE, chance.randrange(SIZE)))])
        _restored(stored, target)
        assert target.read_bytes() == content


def test_an_error_keeps_the_image_as_a_partial_file(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(bytes(SIZE))
    [blob] = (tmp_path / "repo" / "blobs").rglob("*.sparse.zst")
    whole = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
    stored("restore", "web", "--at", "now", "--to-file", target, "--reuse", code=3)
    assert not target.exists() and (tmp_path / "disk.raw.pitr-partial").stat().st_size == SIZE
    blob.write_bytes(whole)
    stored("verify")
    _restored(stored, target)
    assert target.read_bytes() == content


def test_what_cannot_be_reused_is_refused(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(content)

    def refused(*arguments: str | Path) -> str:
        return stored("restore", "web", "--at", "now", *arguments, code=2).complaint

    assert "already exists" in refused("--to-file", target)
    assert "--to-file" in refused("--to-new-disks", "--reuse")
    assert "--keep-going" in refused("--to-file", target, "--reuse", "--keep-going")
    link = tmp_path / "link.raw"
    link.symlink_to(target)
    assert "regular file" in refused("--to-file", link, "--reuse")
    with target.open("rb") as other:
        hold(other.fileno(), target)
        assert "another pitr" in refused("--to-file", target, "--reuse")
    assert target.read_bytes() == content


def test_a_new_image_is_made_where_there_is_none(stored: Pitr, content: bytearray, tmp_path: Path) -> None:
    _restored(stored, tmp_path / "new.raw")
    assert (tmp_path / "new.raw").read_bytes() == content
