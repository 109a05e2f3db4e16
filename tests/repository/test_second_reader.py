# SPDX-License-Identifier: GPL-2.0-or-later
"""A second reader, which knows nothing but docs/format.md, reads all that pitr writes, and sees every damage."""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.model import Backup
from pitr.repository import Repository
from tests.support import second_reader
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.points import Writer, applied, flip_bit
from tests.support.second_reader import Broken, Folder
from tests.support.stored_points import MiB, Stored, change

K = 1 << 10
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "restore_index.py"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stored, MemoryVM]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        engine = MemoryEngine()
        engine.install(patch)
        yield tell(tmp_path_factory.mktemp("story"), engine)


@pytest.fixture
def story(told: tuple[Stored, MemoryVM], tmp_path: Path) -> tuple[Stored, MemoryVM]:
    """Return a copy of the story, which the test may change."""
    stored, vm = told
    path = tmp_path / "repository"
    shutil.copytree(stored.path, path)
    return Stored(path, stored.engine, dict(stored.contents)), vm


def tell(tmp_path: Path, memory_engine: MemoryEngine) -> tuple[Stored, MemoryVM]:
    """Store points of two disks: full, tracked, compared after lost checkpoints, and two that were consolidated."""
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(11)
    vm = memory_engine.add_vm(
        "web1", chance.randbytes(2 * MiB) + bytes(MiB + 512), chance.randbytes(MiB // 4)
    )
    stored.back_up(vm)
    made = []
    for number in range(6):
        change(vm, chance)
        if number == 2:
            vm.checkpoints.clear()
        if number == 4:
            first = next(iter(vm.disks))
            del vm.disks[first][2 * MiB :]
            vm.disks[first].extend(bytes(MiB // 2) + chance.randbytes(100 * K))
            vm.checkpoints.clear()
        made.append(stored.back_up(vm))
        if number == 3:
            replaced(stored, made[-1])
    # One that others are based on already: they find the record that stands for it.
    replaced(stored, made[1])
    return stored, vm


def replaced(stored: Stored, backup: Backup) -> Backup:
    with Repository.open(stored.path) as repository:
        (new,) = consolidate(repository, backup).created
    stored.contents[new.backup_id] = stored.contents.pop(backup.backup_id)
    return new


def check(stored: Stored) -> Folder:
    """Read everything with the second reader; each point must have what the disks had."""
    folder = Folder(stored.path)
    folder.check()
    for backup_id in folder.records:
        assert folder.disks(backup_id) == stored.contents[backup_id]
        assert folder.configuration(backup_id) == b"<ovf/>"
    return folder


def test_it_imports_nothing_of_pitr() -> None:
    tree = ast.parse(Path(second_reader.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
        )
    }
    assert "blake3" in imported and not imported & {"pitr", "tests", "numpy"}


def test_it_restores_tracked_compared_and_consolidated_points(story: tuple[Stored, MemoryVM]) -> None:
    stored, vm = story
    folder = check(stored)
    assert len(folder.records) == 7
    kinds = {entry["kind"] for record in folder.records.values() for entry in record["disks"]}
    changes = {entry.get("changes") for record in folder.records.values() for entry in record["disks"]}
    assert kinds == {"full", "incremental", "synthetic"} and changes == {None, "tracked", "compared"}
    # A chain that goes through the record that stands for a parent.
    newest = max(folder.records.values(), key=lambda record: record["point"])
    chain = folder.chain(newest["backup_id"], next(iter(vm.disks)))
    assert [entry["kind"] for _, entry in chain] == ["incremental", "incremental", "synthetic"]


def test_the_example_restores_any_chain_from_its_indexes(
    story: tuple[Stored, MemoryVM], tmp_path: Path
) -> None:
    stored, _ = story
    folder = Folder(stored.path)
    image = tmp_path / "disk.raw"
    for backup_id in folder.records:
        for disk_id, content in stored.contents[backup_id].items():
            chain = folder.chain(backup_id, disk_id)[::-1]
            indexes = [folder.index_path(entry) for _, entry in chain]
            subprocess.run([sys.executable, EXAMPLE, stored.path, image, *indexes], check=True)
            assert image.read_bytes() == content


def test_it_restores_what_prune_leaves(story: tuple[Stored, MemoryVM]) -> None:
    stored, _ = story
    with Repository.open(stored.path) as repository:
        prune(repository, Retention(last=2), repository.catalog.vms(), notify=pytest.fail)
        for new in repository.catalog.points():
            # Prune can have replaced a point; the new one stands for it.
            if new.stands_for is not None and new.backup_id not in stored.contents:
                stored.contents[new.backup_id] = stored.contents[new.stands_for]
    assert len(check(stored).records) < 7


def test_it_reads_disks_that_grow_and_shrink_and_pieces_of_frames(repository: Repository) -> None:
    writer, content = Writer(repository), bytearray()
    expected = {}
    story = (
        "64k:A 64k:B 64k:C 64k:0 1000:D",
        "16k:- 8k:X 40k:- 32k:0",
        "96k:- 160k:-",
        "8k:- 4k:Z 244k:- 64k:0 3000:E",
    )
    for number, text in enumerate(story):
        backup = writer.add(text, frame_size=64 * K)
        content = applied(content, text)
        expected[backup.backup_id] = bytes(content)
        if number == 1:
            (new,) = consolidate(repository, backup).created
            expected[new.backup_id] = expected.pop(backup.backup_id)
    folder = Folder(repository.path)
    folder.check()
    assert {each: next(iter(folder.disks(each).values())) for each in folder.records} == expected


@pytest.mark.parametrize("kind", ["backups", "blobs", "configurations", "indexes"])
def test_it_sees_any_changed_bit(story: tuple[Stored, MemoryVM], kind: str) -> None:
    stored, _ = story
    chance = random.Random(5)
    files = sorted(file for file in (stored.path / kind).rglob("*") if file.is_file())
    for file in chance.sample(files, min(4, len(files))):
        at, bit = chance.randrange(file.stat().st_size), chance.randrange(8)
        flip_bit(file, at, bit)
        with pytest.raises(Broken):
            Folder(stored.path).check()
        flip_bit(file, at, bit)
    check(stored)
