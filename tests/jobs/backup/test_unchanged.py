# SPDX-License-Identifier: GPL-2.0-or-later
"""Distrust of change tracking: a change that the engine did not tell of is noticed, and a full follows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.endpoints.images.memory import MemorySource
from pitr.errors import CheckpointGone, UntrackedChange
from pitr.extents import ExtentMap
from pitr.jobs.backup.unchanged import check_unchanged
from pitr.model import Kind
from pitr.repository import Repository
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import Stored, chain_of_three, change, check_contents, check_verified

MiB = 1 << 20


def test_an_untold_change_fails_the_incremental_and_the_next_backup_compares(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    for disk in vm.disks.values():
        disk[:4096] = random.Random(4).randbytes(4096)
    memory_engine.lying_tracker = True
    with pytest.raises(UntrackedChange, match="have changed since backup"):
        stored.back_up(vm, incremental=True)
    memory_engine.lying_tracker = False
    assert check_verified(stored.path, at_least=set(stored.contents)) == set(stored.contents)

    with pytest.raises(CheckpointGone, match="engine had missed"):
        stored.back_up(vm, incremental=True, fallback=False)
    compared = stored.back_up(vm, incremental=True)
    assert compared.reason is not None and "the last incremental found changes" in compared.reason
    assert {stream.changes for stream in compared.streams} == {"compared"}
    change(vm, random.Random(5))
    assert {stream.changes for stream in stored.back_up(vm).streams} == {"tracked"}
    check_contents(stored.path, stored)


def test_without_the_check_an_untold_change_goes_unnoticed(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    for disk in vm.disks.values():
        disk[:4096] = bytes(4096)
    memory_engine.lying_tracker = True
    with Repository.open(stored.path) as repository:
        assert memory_engine.back_up(repository, vm, check_unchanged=0.0).kind is Kind.INCREMENTAL


def _lie(stored: Stored, percent: float, start: int) -> None:
    """Compare the newest point's first disk with one in which a byte at `start` differs, untold."""
    with Repository.open(stored.path) as repository:
        newest = repository.catalog.points()[0]
        stream = newest.streams[0]
        content = bytearray(stored.contents[newest.backup_id][stream.disk_id])
        content[start] ^= 1
        check_unchanged(repository, newest, stream, MemorySource(content, ExtentMap.of([])), percent)


def test_all_of_a_disk_is_compared_when_that_is_asked_for(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        newest = repository.catalog.points()[0]
        stream = newest.streams[0]
        content = stored.contents[newest.backup_id][stream.disk_id]
        source = MemorySource(content, ExtentMap.of([]))
        assert check_unchanged(repository, newest, stream, source, 100) > 10
        assert check_unchanged(repository, newest, stream, source, 0.1) == 10
        assert check_unchanged(repository, newest, stream, source, 0) == 0
        # All is told as changed: nothing is left to compare.
        whole = MemorySource(content)
        assert check_unchanged(repository, newest, stream, whole, 100) == 0


def test_a_byte_written_into_zeroes_is_noticed(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    vm = memory_engine.add_vm("empty", bytes(MiB))
    stored.back_up(vm)
    with pytest.raises(UntrackedChange):
        _lie(stored, 0.1, MiB - 1)


def test_a_disk_that_shrank_is_compared_as_far_as_it_goes(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        newest = repository.catalog.points()[0]
        stream = newest.streams[0]
        content = stored.contents[newest.backup_id][stream.disk_id][: MiB // 2]
        assert check_unchanged(repository, newest, stream, MemorySource(content, ExtentMap.of([])), 100) > 0
