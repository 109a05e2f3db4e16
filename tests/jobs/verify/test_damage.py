# SPDX-License-Identifier: GPL-2.0-or-later
"""A changed byte anywhere is found, named, and never restored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pitr.lab import Lab, LabVM
from tests.support.lab import MiB, assert_same, make_vm, nothing_open, oracle_of
from tests.support.pitr import Pitr
from tests.support.shared_points import repository_of, take_copy


def make_chain(lab: Lab, pitr: Pitr, vm: LabVM, folder: Path) -> list[tuple[Any, Path]]:
    """Store a full, two incrementals, and another full: each with the oracle of the only disk."""
    chance = random.Random(5)
    made = []
    for number in range(4):
        with vm.disks[0].guest() as guest:
            guest.write(number * MiB, chance.randbytes(MiB))
        with oracle_of(lab, folder / str(number)) as oracle:
            point = pitr.backup(vm.name, *(["--full"] if number == 3 else []))
        made.append((point, oracle[vm.disks[0].id]))
    return made


@pytest.fixture(scope="module")
def stored_chain(
    shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[tuple[Any, Path]]]]:
    folder = tmp_path_factory.mktemp("chain")
    with repository_of(shared_lab, folder) as (pitr, vm):
        yield pitr.repository, make_chain(shared_lab, pitr, vm, folder)


@pytest.fixture
def chain(stored_chain: tuple[Path, list[tuple[Any, Path]]], pitr: Pitr) -> list[tuple[Any, Path]]:
    """Put a copy of the chain into the test's own repository."""
    take_copy(stored_chain[0], pitr)
    return stored_chain[1]


def object_of(pitr: Pitr, point: Any, what: str) -> Path:
    (disk,) = point["disks"]
    disk_id, name = disk["disk_id"], disk["stream_id"]
    if what == "record":
        records = pitr.repository / "backups" / str(point["vm"]["id"])
        return next(records.glob(f"*{point['backup_id']}.json"))
    return (
        Path(pitr.repository, "blobs", disk_id, f"{name}.sparse.zst")
        if what == "blob"
        else Path(pitr.repository, "indexes", disk_id, f"{name}.index.db")
    )


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("what", ["blob", "index", "record"])
@pytest.mark.parametrize("harm", [flip_a_bit, cut_off, delete])
def test_damage_is_found_named_and_never_restored(
    lab: Lab,
    pitr: Pitr,
    chain: list[tuple[Any, Path]],
    tmp_path: Path,
    what: str,
    harm: Callable[[Path], None],
) -> None:
    harmed = chain[1][0]
    harm(object_of(pitr, harmed, what))
    lost = [chain[1][0]["backup_id"], chain[2][0]["backup_id"]]

    found = pitr.json("verify", code=3)
    assert found["ok"] is False and found["damage"]
    assert {item["what"] for item in found["damage"]} & {what, "frame"}
    # One finding names all that is lost with it, and nothing names what is not.
    assert sorted({point for item in found["damage"] for point in item["points_lost"]}) == sorted(lost)
    if what != "blob" or harm is not flip_a_bit:
        assert pitr.json("verify", "--quick", code=3)["ok"] is False
    text = pitr("verify", code=3)
    assert harmed["backup_id"][:8] in text.stdout

    disks = {disk.id for disk in lab.disks}
    for point_id in lost:
        target = tmp_path / f"{point_id}.raw"
        failed = pitr("restore", "--point", point_id, "--to-file", target, code=3)
        assert failed.complaint
        assert not target.exists() and list(tmp_path.glob(f"*{point_id}*")) == []
        pitr("restore", "--point", point_id, "--to-new-disks", code=3)
    assert {disk.id for disk in lab.disks} == disks and nothing_open(lab)
    for point, oracle in (chain[0], chain[3]):
        (restored,) = pitr.restore_to_file(point, tmp_path / f"good-{point['backup_id']}.raw")
        assert_same(Path(restored["target"]), oracle)


@pytest.mark.parametrize("what", ["blob", "index", "record"])
def test_the_next_backup_after_damage_compares_with_an_older_point_and_says_why(
    lab: Lab, pitr: Pitr, tmp_path: Path, what: str
) -> None:
    chain = make_chain(lab, pitr, make_vm(lab, 4 * MiB), tmp_path)
    delete(object_of(pitr, chain[3][0], what))
    point = pitr.backup(chain[0][0]["vm"]["name"], "--incremental")
    assert (point["parent_id"], point["disks"][0]["changes"]) == (chain[2][0]["backup_id"], "compared")
    assert what == "record" or "damaged" in point["reason"]
    # The new point is a good base.
    pitr.backup(chain[0][0]["vm"]["name"], "--no-fallback")


def test_every_flipped_bit_of_a_small_blob_is_found(lab: Lab, pitr: Pitr) -> None:
    vm = make_vm(lab, 8192)
    with vm.disks[0].guest() as guest:
        guest.write(0, random.Random(8).randbytes(512))
    point = pitr.backup(vm.name)
    blob = object_of(pitr, point, "blob")
    content = blob.read_bytes()
    for at in random.Random(8).sample(range(len(content)), 12):
        harmed = bytearray(content)
        harmed[at] ^= 1 << (at % 8)
        blob.write_bytes(harmed)
        assert pitr.json("verify", code=3)["damage"], at
    blob.write_bytes(content)
    assert pitr.json("verify")["ok"]
