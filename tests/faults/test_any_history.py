# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is done to a repository in whatever order, each point that is left has what the disks had at its time.

Hypothesis draws histories of two disks that are written, discarded, grown and shrunk, of backups that are tracked,
compared and full, and of `consolidate`, `prune` and `forget` between them. A bytearray for each disk and point is the
truth; pitr and the second reader, which knows only docs/format.md, must both agree with it.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pitr.errors import UsageError
from pitr.jobs.consolidate.one_point import consolidate
from pitr.jobs.upkeep.forget import forget
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention, kept_by
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage
from pitr.repository.stream_sink import StreamSink
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.points import flip_bit
from tests.support.second_reader import Folder
from tests.support.stored_points import SOAK, Stored, content

KiB = 1 << 10
FRAME = 128 * KiB
_EXAMPLES = 300 if SOAK else 12

_place = st.integers(0, 150)
_length = st.sampled_from([1, 3, 16, 17, 32, 40])
_disk = st.integers(0, 1)
#: Offsets and lengths in blocks of 4 KiB.
_STEPS = st.one_of(
    st.tuples(st.just("write"), _disk, _place, _length),
    st.tuples(st.just("repeat"), _disk, _place, _length),
    st.tuples(st.just("discard"), _disk, _place, _length),
    st.tuples(st.just("resize"), _disk, st.integers(1, 160), st.sampled_from([0, 512])),
    st.tuples(st.just("back up"), st.sampled_from(["tracked", "tracked", "compared", "full"])),
    st.tuples(st.just("back up"), st.sampled_from(["tracked", "compared"])),
    st.tuples(st.just("consolidate"), st.integers(0, 6)),
    st.tuples(st.just("prune"), st.integers(1, 4)),
    st.tuples(st.just("forget"), st.integers(0, 6)),
)
_HISTORIES = st.tuples(st.integers(0, 99), st.lists(_STEPS, min_size=4, max_size=14 if not SOAK else 40))


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = StreamSink.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "frame_size", FRAME)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@dataclass
class History:
    """A repository of one VM, and what its points must have."""

    stored: Stored
    vm: MemoryVM
    chance: random.Random
    #: The backup that each point is, or stands for.
    known_as: dict[str, str] = field(default_factory=dict)

    @property
    def contents(self) -> dict[str, dict[str, bytes]]:
        return self.stored.contents

    def apply(self, step: Any) -> None:
        kind, *values = step
        getattr(self, "_" + kind.replace(" ", "_"))(*values)

    def _disk_of(self, number: int) -> bytearray:
        return list(self.vm.disks.values())[number]

    def _put(self, number: int, place: int, data: bytes) -> None:
        disk = self._disk_of(number)
        start = place * 4 * KiB % len(disk)
        disk[start : start + len(data)] = data[: len(disk) - start]

    def _write(self, number: int, place: int, length: int) -> None:
        self._put(number, place, self.chance.randbytes(length * 4 * KiB))

    def _repeat(self, number: int, place: int, length: int) -> None:
        """Write what compresses well, and what another write can repeat."""
        self._put(number, place, bytes([65 + place % 3]) * (length * 4 * KiB))

    def _discard(self, number: int, place: int, length: int) -> None:
        self._put(number, place, bytes(length * 4 * KiB))

    def _resize(self, number: int, blocks: int, more: int) -> None:
        disk, size = self._disk_of(number), blocks * 4 * KiB + more
        del disk[size:]
        disk.extend(bytes(size - len(disk)))

    def _back_up(self, how: str) -> None:
        if how == "compared":
            self.vm.checkpoints.clear()
        made = self.stored.back_up(self.vm, full=how == "full")
        self.check(at_least={made.backup_id})

    def _consolidate(self, number: int) -> None:
        with self.open() as repository:
            points = repository.catalog.points()
            if points:
                consolidate(repository, points[number % len(points)])
        self.check(at_least={point.backup_id for point in points})

    def _prune(self, last: int) -> None:
        with self.open() as repository:
            points = repository.catalog.points()
            kept = kept_by(points, Retention(last=last))
            done = prune(repository, Retention(last=last), repository.catalog.vms(), notify=lambda line: None)
            assert done.failed == [] and done.busy == []
        self.check(at_least={each for each, reasons in kept.items() if any("keep" in why for why in reasons)})

    def _forget(self, number: int) -> None:
        with self.open() as repository:
            points = repository.catalog.points()
            if not points:
                return
            chosen = points[number % len(points)]
            try:
                done = forget(repository, [chosen], [], notify=lambda line: None)
            except UsageError as error:
                assert "are based on" in error.message
                self.check(at_least={point.backup_id for point in points})
                return
            assert [backup.backup_id for backup in done.removed] == [chosen.backup_id]
        self.check(at_least={point.backup_id for point in points} - {chosen.backup_id})

    def open(self) -> Repository:
        return Repository.open(self.stored.path)

    def check(self, *, at_least: set[str]) -> None:
        """Check all points that are left; a point of `at_least` can have been replaced by one that stands for it."""
        with self.open() as repository:
            points = repository.catalog.points()
            for point in sorted(points, key=lambda point: point.point):
                if point.backup_id not in self.contents:
                    assert point.stands_for is not None
                    self.contents[point.backup_id] = self.contents[point.stands_for]
                assert content(repository, point) == self.contents[point.backup_id]
            times = {point.point for point in points}
            assert len(times) == len(points), "two points of one time"
            there = {point.backup_id for point in points}
            self.known_as |= {point.backup_id: point.known_as for point in points}
            for backup_id in at_least - there:
                known_as = self.known_as.get(backup_id, backup_id)
                assert any(point.stands_for == known_as for point in points), backup_id

    def check_all(self) -> None:
        """Let `verify` read everything, and the second reader read everything and all disks."""
        with self.open() as repository:
            result = verify(repository, Scope(), "full", workers=1)
            assert result.damage == []
            points = repository.catalog.points()
        folder = Folder(self.stored.path)
        assert folder.records.keys() == {point.backup_id for point in points}
        folder.check()
        for backup_id in folder.records:
            assert folder.disks(backup_id) == self.contents[backup_id]


def started(path: Path, engine: MemoryEngine, seed: int) -> History:
    """A VM with two disks, and its first point."""
    chance = random.Random(seed)
    engine.vms.clear()
    folder = Path(tempfile.mkdtemp(dir=path)) / "repository"
    with Repository.create(folder):
        stored = Stored(folder, engine)
    vm = engine.add_vm(
        "web1", chance.randbytes(300 * KiB) + bytes(200 * KiB) + b"A" * 100 * KiB, b"B" * 200 * KiB
    )
    history = History(stored, vm, chance)
    history.apply(("back up", "tracked"))
    return history


_given = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_given
@given(_HISTORIES)
@example(
    (
        1,
        [
            ("write", 0, 3, 17),
            ("back up", "tracked"),
            ("resize", 0, 40, 0),
            ("back up", "compared"),
            ("consolidate", 1),
            ("resize", 0, 140, 512),
            ("back up", "tracked"),
            ("prune", 2),
            ("consolidate", 0),
            ("prune", 1),
        ],
    )
)
def test_every_point_stays_as_it_was(
    memory: Path, memory_engine: MemoryEngine, quick_disk: None, drawn: tuple[int, list[Any]]
) -> None:
    seed, steps = drawn
    history = started(memory, memory_engine, seed)
    for step in steps:
        history.apply(step)
    history.check_all()


@_given
@given(_HISTORIES, st.integers(0, 1 << 20))
def test_damage_loses_the_points_that_verify_names_and_no_other(
    memory: Path, memory_engine: MemoryEngine, quick_disk: None, drawn: tuple[int, list[Any]], where: int
) -> None:
    seed, steps = drawn
    history = started(memory, memory_engine, seed)
    for step in steps:
        history.apply(step)
    blobs = sorted((history.stored.path / "blobs").rglob("*.sparse.zst"))
    if not blobs:
        return
    blob = blobs[where % len(blobs)]
    flip_bit(blob, where % blob.stat().st_size)
    with history.open() as repository:
        points = repository.catalog.points()
        unreadable = set()
        for point in points:
            try:
                assert content(repository, point) == history.contents[point.backup_id]
            except StoredDamage:
                unreadable.add(point.backup_id)
        named = {
            lost
            for damage in verify(repository, Scope(), "full", workers=1).damage
            for lost in damage.points_lost
        }
    # A point can have the blob in its chain and none of its live data in the damaged frame.
    assert unreadable <= named <= {point.backup_id for point in points}
    folder = Folder(history.stored.path)
    stream_id = blob.name.removesuffix(".sparse.zst")
    for point in points:
        streams = {
            used
            for disk_id in history.contents[point.backup_id]
            for _, entry in folder.chain(point.backup_id, disk_id)
            for used in (entry["stream_id"], *(part["stream_id"] for part in entry.get("parts", ())))
        }
        assert (point.backup_id in named) <= (stream_id in streams)
        assert (stream_id not in streams) <= (point.backup_id not in unreadable)
    # The next backup does not depend on the damage, whatever was found.
    history.apply(("write", 0, 7, 3))
    made = history.stored.back_up(history.vm)
    with history.open() as repository:
        assert content(repository, made) == history.contents[made.backup_id]
