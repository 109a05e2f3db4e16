# SPDX-License-Identifier: GPL-2.0-or-later
"""An import of a whole disk onto an existing chain stores only what differs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pitr.repository import Repository
from pitr.system.process import run
from tests.support.pitr import Pitr
from tests.support.points import blob_path, flip_bit

KiB, MiB = 1 << 10, 1 << 20
HOUR = "2026-01-01T{:02}:00:00Z"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(1).randbytes(3 * MiB) + bytes(MiB))
    return path


def change(image: Path, at: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


def load(pitr: Pitr, image: Path, hour: int, *options: str, key: str = "imported") -> Any:
    """Import the image as the state at an hour; return the only point of that list of the document."""
    arguments = ("--vm", "web1", "--disk", "system", "--time", HOUR.format(hour))
    document = pitr.json("import", "raw", image, *arguments, *options)
    assert [len(document[each]) for each in ("imported", "known")] == [key == "imported", key == "known"]
    return document[key][0]


def assert_is(pitr: Pitr, point: Any, content: bytes, folder: Path) -> None:
    target = folder / "restored.raw"
    target.unlink(missing_ok=True)
    pitr("restore", "--point", point["backup_id"], "--to-file", target)
    assert target.read_bytes() == content


def test_a_whole_import_onto_a_chain_is_compared(pitr: Pitr, image: Path, tmp_path: Path) -> None:
    first = load(pitr, image, 1)
    assert (first["kind"], first["disks"][0]["changes"]) == ("full", None)
    change(image, MiB + 64 * KiB, b"A" * 64 * KiB)
    content = image.read_bytes()
    second = load(pitr, image, 2)
    (disk,) = second["disks"]
    assert (second["kind"], second["parent_id"], disk["changes"]) == (
        "incremental",
        first["backup_id"],
        "compared",
    )
    assert (disk["data_bytes"], disk["zero_bytes"]) == (64 * KiB, 0)
    assert disk["reason"] == "imported from raw images: it holds the whole disk"
    assert_is(pitr, second, content, tmp_path)
    # Again: nothing new, although a full is stored as changes.
    assert load(pitr, image, 2, key="known")["backup_id"] == second["backup_id"]
    # Unchanged, but another time: a point without data.
    third = load(pitr, image, 3)
    assert (third["parent_id"], third["disks"][0]["extents"]) == (second["backup_id"], 0)
    assert load(pitr, image, 2, key="known")["backup_id"] == second["backup_id"]
    assert pitr.json("verify")["ok"]


def test_full_and_an_import_older_than_the_newest_point_are_not_compared(pitr: Pitr, image: Path) -> None:
    load(pitr, image, 4)
    change(image, 0, b"A" * KiB)
    older = load(pitr, image, 2)
    assert (older["kind"], older["parent_id"]) == ("full", None)
    assert "later point" in older["disks"][0]["reason"]
    full = load(pitr, image, 5, "--full")
    assert (full["kind"], full["disks"][0]["changes"]) == ("full", None)
    assert "requested" in full["disks"][0]["reason"]


def test_an_import_that_meets_damage_fails_and_the_next_one_does_not_build_on_it(
    pitr: Pitr, image: Path, tmp_path: Path
) -> None:
    first = load(pitr, image, 1)
    with Repository.open(pitr.repository) as repository:
        backup = repository.catalog.get(first["backup_id"])
        assert backup is not None
        flip_bit(blob_path(repository, backup.streams[0]), MiB + MiB // 2)
    change(image, MiB + 100, b"A")
    content = image.read_bytes()
    arguments = ("import", "raw", image, "--vm", "web1", "--disk", "system", "--time", HOUR.format(2))
    assert first["backup_id"] in pitr(*arguments, code=3).stderr
    assert [point["damaged"] for point in pitr.json("list")["points"]] == [True]
    point = load(pitr, image, 2)
    assert (point["kind"], point["parent_id"], point["damaged"]) == ("full", None, False)
    assert "damaged" in point["disks"][0]["reason"]
    assert_is(pitr, point, content, tmp_path)


def test_imported_changes_are_tracked(pitr: Pitr, tmp_path: Path) -> None:
    """The program that wrote them found them."""
    base, above = tmp_path / "base.qcow2", tmp_path / "above.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "1M"])
    run(["qemu-io", "-c", "write -P 65 0 128k", str(base)])
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(above)])
    run(["qemu-io", "-c", "write -P 66 64k 64k", str(above)])
    times = ("--time", HOUR.format(1), "--time", HOUR.format(2))
    document = pitr.json("import", "qcow2", base, above, "--vm", "web1", "--disk", "system", *times)
    assert [point["disks"][0]["changes"] for point in document["imported"]] == [None, "tracked"]
