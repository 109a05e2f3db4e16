# SPDX-License-Identifier: GPL-2.0-or-later
"""Backup, prune and catalog rebuild with a fault at every call: they lose no committed point."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from pitr.jobs import point_order
from pitr.jobs.consolidate.one_point import Consolidated, consolidate
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.pruned import Pruned
from pitr.jobs.upkeep.retention import Retention
from pitr.model import VMName
from pitr.repository import Repository
from tests.support.faulty_os import (
    BROKEN,
    DIED,
    ENDURED,
    NOT_POSSIBLE,
    NOT_REACHED,
    REFUSED,
    Fault,
    Names,
    run,
)
from tests.support.memory_engine import MemoryEngine, MemoryVM
from tests.support.stored_points import (
    SOAK,
    Stored,
    chain_of_three,
    change,
    check_contents,
    check_verified,
    unnamed_files,
)

_FAULTS = get_args(Fault)
#: More calls than any of the jobs needs.
_ENDLESS = 2000


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory, where syncs cost nothing; the fault layer knows which data is synced."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def _inject_everywhere(
    tmp_path: Path,
    stored: Stored,
    vm: MemoryVM,
    fault: Fault,
    job: Callable[[Path], object],
    keeps: set[str],
    names: Names = "link",
    check: Callable[[Path, set[str]], object] = lambda folder, left: None,
    sampled: int = 1,
) -> int:
    """Run `job` on a copy of the repository, with the fault at each of its calls in turn.

    `check` is given the copy and its points after each fault. CI takes only one of `sampled` calls, others each time.
    """
    step = 1 if SOAK else sampled
    injected = 0
    for at in range(random.SystemRandom().randint(1, step), _ENDLESS, step):
        folder = tmp_path / "copy"
        shutil.copytree(stored.path, folder)
        outcome, said = run(partial(job, folder), folder, fault, at, names)
        assert outcome != BROKEN, said
        if outcome == NOT_REACHED:
            return injected
        if outcome != NOT_POSSIBLE:
            injected += 1
            assert outcome in ((REFUSED, ENDURED) if fault in ("ENOSPC", "EIO") else (DIED,))
            left = check_verified(folder, at_least=keeps)
            check(folder, left)
            if SOAK or injected % 3 == 0:
                _check_next_run(folder, stored, vm, left)
            else:
                check_contents(folder, stored)
        for leftover in (folder, tmp_path / "copy.graves"):
            shutil.rmtree(leftover)
    raise AssertionError("the job makes more calls than were thought of")


def _check_next_run(folder: Path, stored: Stored, vm: MemoryVM, left: set[str]) -> None:
    """Check that the next backup succeeds, and that prune without a grace time then removes all other objects."""
    checkpoints = dict(vm.checkpoints)
    backup = stored.back_up(vm, folder)
    with Repository.open(folder) as repository:
        prune(repository, Retention(last=100), [], grace=timedelta(seconds=-1), notify=lambda line: None)
    assert unnamed_files(folder) == set()
    check_contents(folder, stored)
    assert check_verified(folder, at_least=left | {backup.backup_id}) == left | {backup.backup_id}
    vm.checkpoints = checkpoints
    del stored.contents[backup.backup_id]


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        *((fault, "link") for fault in _FAULTS),
        # As on file systems without hard links.
        ("kill", "lock"),
        ("power", "lock"),
        ("power in part", "lock"),
        ("EIO", "lock"),
        ("power", "renameat2"),
    ],
)
def test_a_backup_loses_nothing_for_any_failing_call(
    tmp_path: Path,
    memory_engine: MemoryEngine,
    fault: Fault,
    names: Names,
    record_property: Callable[[str, object], None],
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    change(vm, random.Random(1))

    def job(folder: Path) -> None:
        with Repository.open(folder) as repository:
            memory_engine.back_up(repository, vm)

    injected = _inject_everywhere(tmp_path, stored, vm, fault, job, set(stored.contents), names, sampled=7)
    record_property("faults injected", injected)
    assert injected > (20 if SOAK else 3)


@pytest.mark.parametrize("fault", _FAULTS)
def test_prune_loses_nothing_for_any_failing_call(
    tmp_path: Path, memory_engine: MemoryEngine, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    removed = set(stored.contents)
    kept = {stored.back_up(vm, full=True).backup_id}

    def job(folder: Path) -> None:
        with Repository.open(folder) as repository:
            done = prune(repository, Retention(last=1), [VMName(vm.id, vm.name)], notify=lambda line: None)
            for failure in done.failed:
                raise failure.error
            assert {backup.backup_id for backup in done.removed} == removed

    injected = _inject_everywhere(tmp_path, stored, vm, fault, job, kept, sampled=4)
    record_property("faults injected", injected)
    assert injected > (5 if SOAK else 1)


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_catalog_rebuild_loses_nothing_for_any_failing_call(
    tmp_path: Path, memory_engine: MemoryEngine, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)

    def job(folder: Path) -> None:
        with Repository.open(folder) as repository:
            repository.rebuild_catalog()

    injected = _inject_everywhere(tmp_path, stored, vm, fault, job, set(stored.contents))
    record_property("faults injected", injected)
    assert injected > 5


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_consolidation_loses_nothing_for_any_failing_call(
    tmp_path: Path, memory_engine: MemoryEngine, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        last, middle, first = repository.catalog.points()

    def job(folder: Path) -> Consolidated:
        with Repository.open(folder) as repository:
            return consolidate(repository, middle)

    sampled = 1 if SOAK else 25

    def check(folder: Path, left: set[str]) -> None:
        with Repository.open(folder) as repository:
            points = repository.catalog.points()
            # The point is there under its own id, under that of the one that stands for it, or both.
            assert {point.point for point in points} == {last.point, middle.point, first.point}
        check_contents(folder, stored)
        if left != {last.backup_id, middle.backup_id, first.backup_id}:
            return
        # The next run does it all.
        copy = folder.with_name("again")
        shutil.copytree(folder, copy)
        (new,) = job(copy).created
        assert new.stands_for == middle.backup_id
        assert check_verified(copy, at_least=set()) == {last.backup_id, new.backup_id, first.backup_id}
        check_contents(copy, stored)
        shutil.rmtree(copy)

    keeps = {last.backup_id, first.backup_id}
    injected = _inject_everywhere(tmp_path, stored, vm, fault, job, keeps, check=check, sampled=sampled)
    record_property("faults injected", injected)
    assert injected > (20 if SOAK else 1)


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize("nights", [0, 2])
def test_a_prune_that_consolidates_loses_nothing_for_any_failing_call(
    tmp_path: Path,
    memory_engine: MemoryEngine,
    fault: Fault,
    nights: int,
    record_property: Callable[[str, object], None],
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    chance = random.Random(2)
    for _ in range(nights):
        change(vm, chance)
        stored.back_up(vm)
    if not nights:
        # What is live of its blobs is copied, and the virtual full is written again.
        with Repository.open(stored.path) as repository:
            consolidate(repository, repository.catalog.points()[1])
    kept = set(list(stored.contents)[-2:])
    all_points = len(stored.contents)

    def job(folder: Path) -> Pruned:
        with Repository.open(folder) as repository:
            done = prune(repository, Retention(last=2), [VMName(vm.id, vm.name)], notify=lambda line: None)
        for failure in done.failed:
            raise failure.error
        return done

    sampled = 1 if SOAK else 50

    def check(folder: Path, left: set[str]) -> None:
        with Repository.open(folder) as repository:
            listed = point_order.without_replaced(repository.catalog.points())
        # Each time is listed once.
        known = [backup.known_as for backup in listed]
        assert len(known) == len(set(known)) <= all_points and kept <= set(known)
        copy = folder.with_name("again")
        shutil.copytree(folder, copy)
        done = job(copy)
        with Repository.open(copy) as repository:
            prune(repository, Retention(last=2), [], grace=timedelta(seconds=-1), notify=lambda line: None)
            assert {backup.known_as for backup in repository.catalog.points()} == kept
            assert len(repository.catalog.points()) == 2
            blobs = blobs_in_use(repository)
        assert {backup.known_as for backup in done.kept} == kept
        assert {path.name.partition(".")[0] for path in copy.glob("blobs/**/*.zst")} == blobs
        check_verified(copy, at_least=kept)
        check_contents(copy, stored)
        shutil.rmtree(copy)

    injected = _inject_everywhere(tmp_path, stored, vm, fault, job, kept, check=check, sampled=sampled)
    record_property("faults injected", injected)
    assert injected > (40 if SOAK else 0)
    assert len(job(stored.path).consolidated) == 1


def blobs_in_use(repository: Repository) -> set[str]:
    """Return the ids of the streams whose blobs the points need."""
    streams = [stream for backup in repository.catalog.points() for stream in backup.streams]
    own = {stream.stream_id for stream in streams if stream.blob is not None}
    return own | {part.stream_id for stream in streams for part in stream.parts}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_compared_backup_on_a_virtual_full_loses_nothing_for_any_failing_call(
    tmp_path: Path, memory_engine: MemoryEngine, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        last, middle, first = repository.catalog.points()
        (new,) = consolidate(repository, last).created
    stored.contents[new.backup_id] = stored.contents[last.backup_id]
    change(vm, random.Random(1))

    def job(folder: Path) -> None:
        vm.checkpoints.clear()
        with Repository.open(folder) as repository:
            made = memory_engine.back_up(repository, vm)
            # What cannot be read now may be damaged, so a fault can make a disk full.
            assert {stream.changes for stream in made.streams} <= {"compared", None}

    keeps = {new.backup_id, middle.backup_id, first.backup_id}
    sampled = 1 if SOAK else 25
    injected = _inject_everywhere(tmp_path, stored, vm, fault, job, keeps, sampled=sampled)
    record_property("faults injected", injected)
    assert injected > (20 if SOAK else 1)
    job(stored.path)
    with Repository.open(stored.path) as repository:
        made = repository.catalog.points()[0]
    assert {stream.changes for stream in made.streams} == {"compared"} and made.parent_id == new.known_as
