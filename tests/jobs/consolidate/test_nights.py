# SPDX-License-Identifier: GPL-2.0-or-later
"""Many nights of backup and prune: never a second full, kept points identical, and no more stored than is live."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pitr.errors import Interrupted
from pitr.jobs.consolidate.choose import points_to_consolidate
from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.facts import facts_of_vm
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.pruned import Pruned
from pitr.jobs.upkeep.retention import Retention
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup, Kind
from pitr.repository import Repository, marks
from pitr.repository.chain import resolve_chain
from pitr.repository.marks import Hold
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.pitr import Pitr
from tests.support.points import Writer, blob_path, flip_bit
from tests.support.stored_points import MiB, Stored, content

pytestmark = pytest.mark.usefixtures("quick_disk")
HELD = Hold(datetime(2100, 1, 1, tzinfo=UTC))


def night(stored: Stored, vm: MemoryVM, chance: random.Random, changes: int = 2) -> Backup:
    """Change a few ranges, with data and zeroes, and back up."""
    [disk] = vm.disks.values()
    for _ in range(changes):
        length = chance.choice((1 << 16, 3 << 16, 1 << 18))
        start = chance.randrange((len(disk) - length) >> 16) << 16
        disk[start : start + length] = chance.randbytes(length) if chance.random() < 0.8 else bytes(length)
    return stored.back_up(vm)


def pruned_to(stored: Stored, last: int, **options: bool) -> Pruned:
    with Repository.open(stored.path) as repository:
        return prune(
            repository,
            Retention(last=last),
            repository.catalog.vms(),
            notify=pytest.fail,
            **options,  # type: ignore[arg-type]
        )


def check(stored: Stored, kept: int) -> None:
    """Compare all points with what they must hold, and what is stored with what is live in them."""
    with Repository.open(stored.path) as repository:
        points = repository.catalog.points()
        assert len(points) == kept
        live: dict[tuple[str, int], int] = {}
        for backup in points:
            assert content(repository, backup) == stored.contents[backup.known_as]
            for stream in backup.streams:
                resolved = resolve_chain(repository, backup, stream, with_frames=True)
                for row in range(len(resolved.map)):
                    if not resolved.map.zero[row]:
                        source = resolved.sources[int(resolved.map.layer[row])].stream
                        start, length = int(resolved.map.start[row]), int(resolved.map.length[row])
                        for block in range(start, start + length, 1 << 16):
                            live[(source.stream_id, block)] = min(1 << 16, start + length - block)
        assert verify(repository, Scope(), "full", workers=1).damage == []
        blobs = sum(path.stat().st_size for path in stored.path.glob("blobs/**/*.zst"))
    # The data is random, so it does not compress; a blob has a little text besides.
    assert blobs <= 2 * sum(live.values()) + (1 << 16)


def test_sixty_nights(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(60)
    vm = memory_engine.add_vm("web1", chance.randbytes(4 * MiB))
    copied = 0
    for number in range(60):
        backup = night(stored, vm, chance)
        assert backup.kind is (Kind.INCREMENTAL if number else Kind.FULL)
        planned = pruned_to(stored, 10, dry_run=True)
        done = pruned_to(stored, 10)
        assert [each.backup_id for each in done.removed] == [each.backup_id for each in planned.removed]
        assert (done.freed_bytes, done.copied_bytes) == (planned.freed_bytes, planned.copied_bytes)
        copied += done.copied_bytes
        if number % 10 == 9:
            check(stored, 10)
    # Each byte moves about once in its life: 60 nights bring about 20 MiB.
    assert 0 < copied < 40 * MiB


def test_points_that_are_held_share_what_is_copied(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(61)
    vm = memory_engine.add_vm("web1", chance.randbytes(4 * MiB))
    held: list[str] = []
    for number in range(30):
        backup = night(stored, vm, chance, changes=4)
        with Repository.open(stored.path) as repository:
            if number % 5 == 0:
                marks.hold(repository.store, backup, HELD)
                held.append(backup.backup_id)
            for point in repository.catalog.points():
                if point.known_as in held and len(held) > 3 and point.known_as == held[0]:
                    marks.hold(repository.store, point, None)
                    held.pop(0)
        done = pruned_to(stored, 3)
        names = {point.known_as for point in done.kept}
        assert names == set(list(stored.contents)[-3:]) | set(held)
        if number % 6 == 5:
            check(stored, len(names))


def test_long_chains_are_cut(repository: Repository) -> None:
    writer = Writer(repository)
    for number in range(8):
        writer.add(f"64k:{'ABCDEFGH'[number]}", full=number == 0)
    points = repository.catalog.points()
    ids = {backup.backup_id for backup in points}
    wanted = points_to_consolidate(repository, points, ids, set(), longest=3)
    assert [backup.backup_id for backup in wanted] == [
        writer.backups[3].backup_id,
        writer.backups[6].backup_id,
    ]
    assert points_to_consolidate(repository, points, ids, {wanted[0].backup_id}, longest=7) == [
        writer.backups[7]
    ]
    assert points_to_consolidate(repository, points, ids, set()) == []


def test_an_interrupted_prune_loses_nothing_and_is_continued(
    tmp_path: Path, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(62)
    vm = memory_engine.add_vm("web1", chance.randbytes(2 * MiB))
    for _ in range(5):
        night(stored, vm, chance)

    def interrupt(*_: object) -> None:
        raise Interrupted(2)

    for place in ("commit", "remove"):
        with monkeypatch.context() as patch, Repository.open(stored.path) as repository:
            patch.setattr(Repository, place, interrupt)
            with pytest.raises(Interrupted):
                prune(repository, Retention(last=2), repository.catalog.vms(), notify=pytest.fail)
    # The new records stand beside those that they replace, and each time has one line.
    command = Pitr({"PITR_REPO": str(stored.path), "HOME": str(tmp_path)})
    listed = command.json("list")["points"]
    assert {point["stands_for"] or point["backup_id"] for point in listed} == set(stored.contents)
    assert len(listed) == 5 and any(point["stands_for"] for point in listed)
    done = pruned_to(stored, 2)
    assert {point.known_as for point in done.kept} == set(list(stored.contents)[-2:])
    check(stored, 2)


def test_damage_stops_neither_the_prune_nor_is_it_copied(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(63)
    vm = memory_engine.add_vm("web1", chance.randbytes(2 * MiB))
    for _ in range(5):
        night(stored, vm, chance, changes=5)
    with Repository.open(stored.path) as repository:
        full = repository.catalog.points()[-1]
        path = blob_path(repository, full.streams[0])
    # In the middle of the only frames that are still live.
    for at in range(1, 40):
        flip_bit(path, at * path.stat().st_size // 40)
    said: list[str] = []
    with Repository.open(stored.path) as repository:
        done = prune(repository, Retention(last=1), repository.catalog.vms(), notify=said.append)
        [kept] = done.kept
        assert done.copied_bytes == 0
        assert {part.stream_id for part in kept.streams[0].parts} >= {full.streams[0].stream_id}
        assert [damage.kind for damage in verify(repository, Scope(), "full", workers=1).damage] == [
            "corrupt"
        ]


def test_consolidate_copies_what_is_live_of_blobs_without_a_record(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(64)
    vm = memory_engine.add_vm("web1", chance.randbytes(2 * MiB))
    for _ in range(3):
        night(stored, vm, chance)
    pruned_to(stored, 1)
    for disk in vm.disks.values():
        disk[:] = chance.randbytes(len(disk))
    stored.back_up(vm)
    with Repository.open(stored.path) as repository:
        planned = consolidate(repository, repository.catalog.points()[0], dry_run=True)
        done = consolidate(repository, repository.catalog.points()[0])
        assert (planned.copied_bytes, planned.freed_bytes) == (done.copied_bytes, done.freed_bytes)
    check(stored, 2)


def test_a_hold_survives_an_interruption_between_the_records(
    tmp_path: Path, memory_engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(65)
    vm = memory_engine.add_vm("web1", chance.randbytes(2 * MiB))
    held = [night(stored, vm, chance) for _ in range(3)][1]

    def interrupt(*_: object) -> None:
        raise Interrupted(2)

    with Repository.open(stored.path) as repository:
        marks.hold(repository.store, held, HELD)
        with monkeypatch.context() as patch:
            patch.setattr(Repository, "remove", interrupt)
            with pytest.raises(Interrupted):
                prune(repository, Retention(last=1), repository.catalog.vms(), notify=pytest.fail)
    done = pruned_to(stored, 1)
    assert {point.known_as for point in done.kept} == {held.backup_id, list(stored.contents)[-1]}
    check(stored, 2)


def test_a_synthetic_point_that_is_known_to_be_damaged_keeps_its_record_and_its_findings(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(66)
    vm = memory_engine.add_vm("web1", chance.randbytes(2 * MiB))
    for _ in range(3):
        night(stored, vm, chance, changes=1)
    with Repository.open(stored.path) as repository:
        full = repository.catalog.points()[-1].streams[0]
    pruned_to(stored, 1)
    with Repository.open(stored.path) as repository:
        [synthetic] = repository.catalog.points()
        marks.hold(repository.store, synthetic, HELD)
        flip_bit(blob_path(repository, full), -(MiB // 2))
        verify(repository, Scope(), "full", workers=1)
    for disk in vm.disks.values():
        disk[:] = chance.randbytes(len(disk))
    stored.back_up(vm, full=True)
    done = pruned_to(stored, 1)
    assert done.copied_bytes == 0
    with Repository.open(stored.path) as repository:
        facts = facts_of_vm(repository, vm.id)
        assert synthetic in repository.catalog.points() and facts[synthetic.backup_id].damaged
