# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr import` of blobs that pitr piped out: their points are complete again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pitr.lab import Lab
from tests.support.independent import run, unzstd
from tests.support.lab import assert_same, make_vm
from tests.support.pitr import Pitr

MiB = 1 << 20
SIZE = 8 * MiB


@dataclass(frozen=True, slots=True)
class Tape:
    """A full and an incremental backup that were piped out: their points, blobs and copies of the disk."""

    vm: str
    points: list[Any]
    blobs: list[Path]
    oracles: list[Path]


@pytest.fixture
def tape(pitr: Pitr, lab: Lab, tmp_path: Path) -> Tape:
    vm = make_vm(lab, SIZE)
    made = Tape(vm.name, [], [], [])
    for number in range(2):
        with vm.disks[0].guest() as guest:
            guest.write(number * MiB // 2, random.Random(number).randbytes(3 * MiB))
        made.oracles.append(tmp_path / f"oracle{number}")
        lab.disk(vm.disks[0].id).copy_content(made.oracles[-1])
        made.blobs.append(tmp_path / f"blob{number}")
        where = ("--incremental", "--disk", "d0", "--to", str(made.blobs[-1]))
        made.points.append(pitr.backup(vm.name, *where))
    return made


def _files(pitr: Pitr) -> set[Path]:
    return {
        path
        for path in (*pitr.repository.glob("blobs/*/*"), *pitr.repository.glob("indexes/*/*"))
        if path.is_file()
    }


def test_the_point_is_restorable_from_the_repository_again(pitr: Pitr, tape: Tape, tmp_path: Path) -> None:
    records = {path: path.read_bytes() for path in (pitr.repository / "backups").rglob("*.json")}
    newest = tape.points[1]["backup_id"]
    where = ("restore", "--point", newest, "--to-file", tmp_path / "out.raw")
    assert "pitr import" in pitr(*where, code=2).complaint
    # The order does not matter, nor whether a blob comes through a pipe or from a file.
    done = run(pitr, "import", "-", "--output", "json", given=tape.blobs[1])
    assert json.loads(done.stdout)["imported"] == [tape.points[1]]
    checked = pitr.json("verify", "--full")["checked"]
    assert checked["elsewhere"] == 1 and checked["frames"] > 0
    pitr(*where, code=2)
    assert "is in the repository again" in pitr("import", tape.blobs[0], "--vm", tape.vm).stderr
    assert pitr.json("verify", "--full") == {
        "ok": True,
        "level": "full",
        "checked": {**pitr.json("verify", "--full")["checked"], "elsewhere": 0},
        "damage": [],
    }
    for point, oracle, path in zip(tape.points, tape.oracles, ("first.raw", "second.raw"), strict=True):
        pitr.restore_to_file(point, tmp_path / path)
        assert_same(tmp_path / path, oracle)
        assert "piped out" not in pitr("show", point["backup_id"]).stdout
        run(pitr, "export", "--point", point["backup_id"])
    # All records and points are unchanged.
    assert {path: path.read_bytes() for path in (pitr.repository / "backups").rglob("*.json")} == records
    assert pitr.json("list")["points"] == tape.points[::-1]
    assert pitr.json("catalog", "check")["ok"] and pitr.json("catalog", "rebuild", "--from-blobs")["ok"]
    # The repository now verifies the blob, and removes it with its point.
    (blob,) = [
        path for path in _files(pitr) if path.name.startswith(tape.points[1]["disks"][0]["stream_id"] + ".s")
    ]
    assert blob.read_bytes() == tape.blobs[1].read_bytes() and blob.stat().st_mode & 0o777 == 0o600
    blob.write_bytes(blob.read_bytes()[:-1])
    assert pitr.json("verify", code=3)["damage"][0]["kind"] == "truncated"
    pruned = pitr.json("prune", "--keep-last", "1", "--dry-run")
    assert pruned["unreferenced"] == []


def test_pruned_points_take_the_blob_with_them(pitr: Pitr, lab: Lab, tape: Tape) -> None:
    pitr("import", *tape.blobs)
    pitr.backup(tape.vm, "--full")
    pitr("prune", "--keep-last", "1")
    assert len(pitr.json("list")["points"]) == 1
    kept = pitr.json("list")["points"][0]["disks"]
    assert {path.name.split(".")[0] for path in _files(pitr)} == {disk["stream_id"] for disk in kept}


def _flipped(blob: bytes) -> bytes:
    changed = bytearray(blob)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_flipped, "digest"),
        (lambda blob: blob[:-1], "instead of"),
        (lambda blob: blob + b"\0", "more than"),
        (lambda blob: blob * 3, "more than"),
        (unzstd, "neither decompressed nor compressed again"),
    ],
    ids=["flipped", "cut", "longer", "thrice", "decompressed"],
)
def test_other_bytes_are_refused(
    pitr: Pitr, tape: Tape, tmp_path: Path, change: Callable[[bytes], bytes], says: str
) -> None:
    before = _files(pitr)
    (tmp_path / "given").write_bytes(change(tape.blobs[0].read_bytes()))
    assert says in pitr("import", tmp_path / "given", code=1).complaint
    assert _files(pitr) == before
    assert list((pitr.repository / "tmp").rglob("*.sparse*")) == []
    # The right bytes are still accepted.
    pitr("import", tape.blobs[0])


def test_contradicting_options_are_refused(pitr: Pitr, lab: Lab, tape: Tape, tmp_path: Path) -> None:
    before = _files(pitr)
    onto = tape.points[1]["backup_id"]
    for option, value in (("--vm", "other"), ("--disk", "other"), ("--time", "now"), ("--onto", onto)):
        pitr("import", tape.blobs[0], option, value, code=2)
    assert "It belongs to that point only" in pitr("import", tape.blobs[0], "--vm", "other", code=2).complaint
    plain = tmp_path / "plain"
    pitr.backup(tape.vm, "--full", "--disk", "d0", "--to", str(plain), "--compress", "none")
    assert "--get-command" in pitr("import", plain, code=2).complaint
    assert {path for path in _files(pitr) - before if path.suffix != ".db"} == set()
    pitr("import", tape.blobs[0], "--vm", tape.vm, "--disk", "d0")
    again = pitr.json("import", tape.blobs[0])
    assert again["imported"] == [] and again["known"] == [tape.points[0]]


def test_a_beginning_without_end_is_not_remembered(pitr: Pitr, tape: Tape, tmp_path: Path) -> None:
    # An endless row of empty frames must not fill the memory.
    blob = zstandard.ZstdCompressor().compress(b"") * (5 * MiB // 9) + tape.blobs[0].read_bytes()
    (tmp_path / "long").write_bytes(blob)
    assert "its beginning is too long" in pitr("import", tmp_path / "long", code=1).complaint
