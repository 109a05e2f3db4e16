# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage of every kind: verify finds it and names the lost points, and restore never writes damaged data."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from blake3 import blake3

from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.points.salvage import open_salvage
from pitr.errors import DamageError, PitrError
from pitr.jobs.verify.stored_data import Level, Scope, verify
from pitr.model import Backup
from pitr.repository import Repository, names
from pitr.repository.catalog.packed import packed_id
from pitr.repository.damage import Damage, StoredDamage
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import SOAK, Stored, chain_of_three, change, content

#: How many single bits are flipped, one at a time.
FLIPS = 1000


@dataclass(frozen=True)
class Example:
    """A repository with a chain of three points and a full of another VM, and the streams based on each stream."""

    stored: Stored
    points: list[Backup]
    other: Backup

    @property
    def path(self) -> Path:
        return self.stored.path

    def depending_on(self, name: str) -> set[str]:
        """Return the points that need the object with this name, computed from the records."""
        if name.startswith("backups/"):
            backup = next(one for one in [*self.points, self.other] if one.backup_id in name)
            later = self.points[self.points.index(backup) :] if backup in self.points else [backup]
            return {one.backup_id for one in later}
        for at, backup in enumerate(self.points):
            if any(stream.stream_id in name for stream in backup.streams):
                return {one.backup_id for one in self.points[at:]}
        return {self.other.backup_id}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with pytest.MonkeyPatch.context() as patch:
        engine = MemoryEngine()
        engine.install(patch)
        stored, vm = chain_of_three(tmp_path_factory.mktemp("damage") / "repository", engine)
        other = engine.add_vm("db1", bytes(vm.disks[next(iter(vm.disks))])[: 1 << 18])
        last = stored.back_up(other)
        with Repository.open(stored.path) as repository:
            points = repository.catalog.points(vm.id)[::-1]
        yield Example(stored, points, last)


@pytest.fixture
def damaged(example: Example, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(example.path, tmp_path / "damaged"))


def objects(path: Path) -> list[str]:
    """Return all files of a repository except locks and the catalog, which pitr can rebuild."""
    found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return sorted(
        name for name in found if name.split("/")[0] in ("repository.json", "blobs", "indexes", "backups")
    )


def found_by(level: Level, path: Path) -> list[Damage]:
    """Return the findings of verify. A repository that cannot be opened is a finding too."""
    try:
        with Repository.open(path) as repository:
            return verify(repository, Scope(), level, workers=1).damage
    except StoredDamage as error:
        return [error.damage]


def check_found(example: Example, level: Level, path: Path, name: str) -> None:
    """Check that verify finds the damage of the object `name` and names exactly the points that need it."""
    found = found_by(level, path)
    assert found, f"{name}: not found"
    if name != names.REPOSITORY:
        assert {point for one in found for point in one.points_lost} == example.depending_on(name), name


def check_nothing_sent(example: Example, path: Path, name: str) -> None:
    """Check that exactly the lost points are refused, before any wrong byte, and the others restored unchanged."""
    lost = set()
    try:
        with Repository.open(path) as repository:
            for backup in [*example.points, example.other]:
                try:
                    assert content(repository, backup) == example.stored.contents[backup.backup_id]
                except DamageError:
                    lost.add(backup.backup_id)
    except StoredDamage:
        assert name == names.REPOSITORY
        return
    assert lost <= example.depending_on(name)


def test_every_flipped_bit_is_found(
    example: Example, damaged: Path, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(20200630)
    files = objects(damaged)
    # Half of the bits are anywhere in all bytes, the other half evenly in all files, including small ones.
    sizes = [(damaged / name).stat().st_size for name in files]
    for number in range(FLIPS):
        name = chance.choices(files, sizes)[0] if number % 2 else files[number // 2 % len(files)]
        file = damaged / name
        whole = file.read_bytes()
        bit = chance.randrange(8 * len(whole))
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        file.write_bytes(broken)
        check_found(example, "full", damaged, name)
        if number % 20 == 0:
            check_nothing_sent(example, damaged, name)
        file.write_bytes(whole)
    record_property("flips made and found", FLIPS)
    assert found_by("full", damaged) == []


@pytest.mark.parametrize("level", ["quick", "full"])
def test_truncated_and_appended_files_are_found(example: Example, damaged: Path, level: Level) -> None:
    for name in objects(damaged):
        file = damaged / name
        whole = file.read_bytes()
        for broken in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0", whole + whole[-100:]):
            file.write_bytes(broken)
            check_found(example, level, damaged, name)
            check_nothing_sent(example, damaged, name)
        file.write_bytes(whole)


@pytest.mark.parametrize("level", ["quick", "full"])
def test_missing_files_are_found(example: Example, damaged: Path, level: Level) -> None:
    for name in objects(damaged):
        if name == names.REPOSITORY:
            continue
        whole = (damaged / name).read_bytes()
        (damaged / name).unlink()
        check_found(example, level, damaged, name)
        check_nothing_sent(example, damaged, name)
        (damaged / name).write_bytes(whole)


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize("suffix", [".sparse.zst", ".index.db"])
def test_swapped_files_are_found(example: Example, damaged: Path, level: Level, suffix: str) -> None:
    files = sorted(damaged.glob(f"*/*/*{suffix}"))
    for one, two in zip(files, files[1:] + files[:1], strict=True):
        _swap(one, two)
        found = {one.stream_id for one in found_by(level, damaged)}
        assert {one.name.removesuffix(suffix), two.name.removesuffix(suffix)} <= found
        check_nothing_sent_of_any(example, damaged)
        _swap(one, two)


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_blob_replaced_by_another_of_the_same_size_is_found(
    example: Example, damaged: Path, level: Level
) -> None:
    one, two, *_ = sorted(damaged.glob("blobs/*/*.sparse.zst"), key=lambda file: file.stat().st_size)
    # Truncated or padded to the length of the other blob.
    size = two.stat().st_size
    two.write_bytes((one.read_bytes() + bytes(size))[:size])
    check_found(example, level, damaged, two.relative_to(damaged).as_posix())


@pytest.mark.parametrize("level", ["quick", "full"])
def test_an_edited_record_with_a_valid_digest_is_found(example: Example, damaged: Path, level: Level) -> None:
    name = next(name for name in objects(damaged) if example.points[1].backup_id in name)
    file = damaged / name
    document = orjson.loads(file.read_bytes())
    for key, value in (
        ("kind", "full"),
        ("parent_id", example.other.backup_id),
        ("vm_id", example.other.vm.id),
        ("private", {**document["private"], "vm_name": "other"}),
        ("duration_ms", document["duration_ms"] + 1),
        ("point", "2020-06-29T20:01:30Z"),
    ):
        edited = {**document, key: value}
        del edited["digest"]
        digest = blake3(orjson.dumps(edited, option=orjson.OPT_SORT_KEYS)).hexdigest()
        file.write_bytes(orjson.dumps({**edited, "digest": digest}, option=orjson.OPT_SORT_KEYS))
        check_found(example, level, damaged, name)
        check_nothing_sent(example, damaged, name)


def test_a_catalog_that_contradicts_a_record_is_found(example: Example, damaged: Path) -> None:
    with sqlite3.connect(damaged / "catalog.db") as catalog:
        chosen = "(SELECT number FROM point_row WHERE backup_id = ?)"
        catalog.execute(
            f"UPDATE stream_row SET size = size + 512 WHERE point = {chosen}",  # noqa: S608
            [packed_id(example.points[2].backup_id)],
        )
    catalog.close()
    found = found_by("quick", damaged)
    assert [one.kind for one in found] == ["inconsistent"]
    with Repository.open(damaged) as repository, pytest.raises(DamageError, match="do not agree"):
        content(repository, repository.catalog.points(example.points[0].vm.id)[0])


def test_a_read_error_of_the_disk_is_damage(
    example: Example, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    blob = max(damaged.glob("blobs/*/*.sparse.zst"), key=lambda file: file.stat().st_size)
    real = os.pread

    def pread(handle: int, length: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{handle}").readlink() == blob:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    check_found(example, "full", damaged, blob.relative_to(damaged).as_posix())


def check_nothing_sent_of_any(example: Example, path: Path) -> None:
    with Repository.open(path) as repository:
        for backup in [*example.points, example.other]:
            try:
                assert content(repository, backup) == example.stored.contents[backup.backup_id]
            except DamageError:
                continue


def _swap(one: Path, two: Path) -> None:
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])


# Restoring the rest


def salvaged(path: Path, backup: Backup, disk: int = 0) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the disk that --keep-going restores, and the ranges that it reports as damaged."""
    with (
        Repository.open(path) as repository,
        open_salvage(repository, backup, backup.streams[disk]) as source,
    ):
        sink = MemorySink(source.size)
        copy(source, sink, workers=2)
        return bytes(sink.content), [(one.start, one.length) for one in source.damaged()]


def check_salvage(example: Example, path: Path, backup: Backup, *, loses: bool) -> None:
    """Check that damaged ranges are zero and that all others are unchanged."""
    for disk, stream in enumerate(backup.streams):
        expected = example.stored.contents[backup.backup_id][stream.disk_id]
        found, ranges = salvaged(path, backup, disk)
        blank = bytearray(expected)
        for start, length in ranges:
            blank[start : start + length] = bytes(length)
        assert found == blank
        if loses and disk == 0:
            assert 0 < sum(length for _, length in ranges) < len(expected)


def test_keep_going_restores_all_but_a_damaged_frame(example: Example, damaged: Path) -> None:
    newest = example.points[-1]
    for backup in example.points:
        file = damaged / names.blob(backup.streams[0].disk_id, backup.streams[0].stream_id)
        whole = file.read_bytes()
        broken = bytearray(whole)
        broken[len(whole) // 2] ^= 1
        file.write_bytes(broken)
        check_salvage(example, damaged, newest, loses=True)
        file.write_bytes(whole)
    assert salvaged(damaged, newest)[1] == []


def test_keep_going_restores_all_but_a_lost_or_shortened_blob(example: Example, damaged: Path) -> None:
    newest = example.points[-1]
    for backup in example.points:
        file = damaged / names.blob(backup.streams[0].disk_id, backup.streams[0].stream_id)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) * 2 // 3])
        check_salvage(example, damaged, newest, loses=True)
        file.unlink()
        check_salvage(example, damaged, newest, loses=True)
        file.write_bytes(whole)


def test_keep_going_without_an_index_keeps_what_newer_streams_cover(example: Example, damaged: Path) -> None:
    newest = example.points[-1]
    middle = example.points[1].streams[0]
    (damaged / names.index(middle.disk_id, middle.stream_id)).unlink()
    check_salvage(example, damaged, newest, loses=True)


def test_keep_going_uses_the_catalog_for_lost_records(example: Example, damaged: Path) -> None:
    for name in [name for name in objects(damaged) if name.startswith("backups/")]:
        (damaged / name).unlink()
    for backup in example.points:
        check_salvage(example, damaged, backup, loses=False)
        assert salvaged(damaged, backup)[1] == []


def test_keep_going_without_a_record_in_the_catalog_loses_its_data(example: Example, damaged: Path) -> None:
    name = next(name for name in objects(damaged) if example.points[1].backup_id in name)
    (damaged / name).unlink()
    (damaged / "catalog.db").unlink()
    check_salvage(example, damaged, example.points[-1], loses=True)


def test_any_damage_raises_only_errors_of_pitr(example: Example, damaged: Path) -> None:
    """Bits flip in open files: each call returns a result or raises one of pitr's errors."""
    chance = random.Random(3)
    files = [*objects(damaged), "catalog.db"]
    for _ in range(300 if SOAK else 80):
        name = chance.choice(files)
        file = damaged / name
        whole = file.read_bytes()
        start = chance.randrange(len(whole))
        broken = bytearray(whole)
        broken[start : start + 64] = chance.randbytes(min(64, len(whole) - start))
        file.write_bytes(broken)
        try:
            with Repository.open(damaged) as repository:
                verify(repository, Scope(), "full", workers=1)
                for backup in repository.catalog.points():
                    for stream in backup.streams:
                        open_salvage(repository, backup, stream).close()
        except PitrError:
            pass
        file.write_bytes(whole)
        if name == "catalog.db":
            with Repository.open(damaged) as repository:
                repository.rebuild_catalog()


def test_a_damaged_disk_is_backed_up_in_full_and_the_other_is_not(
    example: Example, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = example.stored.engine
    engine.install(monkeypatch)
    vm = engine.vms[example.points[0].vm.id]
    blob = damaged / names.blob(example.points[1].streams[0].disk_id, example.points[1].streams[0].stream_id)
    blob.unlink()
    change(vm, random.Random(5))
    backup = Stored(damaged, engine).back_up(vm)
    harmed = example.points[1].streams[0].disk_id
    assert {stream.disk_id: stream.kind.value for stream in backup.streams} == {
        disk_id: "full" if disk_id == harmed else "incremental" for disk_id in vm.disks
    }
    assert "damaged" in str([stream.reason for stream in backup.streams if stream.disk_id == harmed])
