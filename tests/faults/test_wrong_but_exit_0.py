# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases in which another backup tool restored a wrong image and reported success."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from pitr.errors import CheckpointGone
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Kind
from pitr.repository import Repository, names
from pitr.repository.damage import StoredDamage
from tests.support.memory_engine import MemoryEngine
from tests.support.stored_points import (
    Stored,
    chain_of_three,
    change,
    check_contents,
    check_verified,
    content,
)

KiB = 1 << 10


def test_a_deleted_middle_incremental_is_an_error_and_not_skipped(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    full, middle, last = stored.contents
    for with_catalog in (True, False):
        with Repository.open(stored.path) as repository:
            backup = next(one for one in repository.catalog.points() if one.backup_id == last)
            gone = list(stored.path.glob(f"backups/*/*{middle}.json"))
            if with_catalog:
                gone[0].rename(tmp_path / "record")
            else:
                (stored.path / "catalog.db").unlink()
        with Repository.open(stored.path) as repository:
            with pytest.raises(StoredDamage, match=middle) as refusal:
                content(repository, backup)
            assert refusal.value.exit_code == 3
            lost = {one for found in verify(repository, Scope(), "quick").damage for one in found.points_lost}
            assert last in lost
            assert full not in lost


def test_the_order_follows_the_lineage_and_not_the_times_of_files(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    files = [path for path in stored.path.rglob("*") if path.is_file()]
    for seconds, path in enumerate(sorted(files, key=lambda path: -path.stat().st_mtime_ns)):
        os.utime(path, (seconds, seconds))
    (stored.path / "catalog.db").unlink()
    check_verified(stored.path, at_least=set(stored.contents))
    check_contents(stored.path, stored)


def test_a_blob_that_ends_after_any_frame_is_truncated(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        backup = repository.catalog.points()[-1]
        stream = backup.streams[0]
        with repository.open_index(backup, stream) as index:
            ends = [row.blob_offset + row.blob_length for row in index.rows() if row.blob_offset is not None]  # type: ignore[operator]
    blob = stored.path / names.blob(stream.disk_id, stream.stream_id)
    whole = blob.read_bytes()
    assert ends
    for end in ends:
        blob.write_bytes(whole[:end])
        with Repository.open(stored.path) as repository:
            with pytest.raises(StoredDamage):
                content(repository, backup)
            for level in ("quick", "full"):
                damage = verify(repository, Scope(), level).damage
                assert ("truncated", "blob") in {(found.kind, found.what) for found in damage}


def test_two_valid_frames_in_swapped_places_are_found(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    with Repository.create(tmp_path / "repository"):
        stored = Stored(tmp_path / "repository", memory_engine)
    chance = random.Random(1)
    # zstd cannot compress the data of these frames, so they have the same size.
    vm = memory_engine.add_vm("web1", chance.randbytes(2 << 20))
    stored.back_up(vm)
    with Repository.open(stored.path) as repository:
        backup = repository.catalog.points()[0]
        stream = backup.streams[0]
        with repository.open_index(backup, stream) as index:
            rows = [row for row in index.rows() if row.blob_offset is not None]
        blob = stored.path / names.blob(stream.disk_id, stream.stream_id)
        stored_bytes = bytearray(blob.read_bytes())
        one, two = next(
            (one, two)
            for one, two in pairwise(rows)
            if (one.length, one.blob_length) == (two.length, two.blob_length)
        )
        assert one.blob_offset is not None
        assert two.blob_offset is not None
        assert one.blob_length is not None
        places = [slice(row.blob_offset, row.blob_offset + one.blob_length) for row in (one, two)]  # type: ignore[operator]
        stored_bytes[places[0]], stored_bytes[places[1]] = stored_bytes[places[1]], stored_bytes[places[0]]
        blob.write_bytes(stored_bytes)
        with pytest.raises(StoredDamage, match="digest"):
            content(repository, backup)
        assert len(verify(repository, Scope(), "full").damage) == 2


def test_zeroes_written_after_the_full_hide_older_data(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    for disk in vm.disks.values():
        disk[0 : 128 * KiB] = bytes(128 * KiB)
    backup = stored.back_up(vm)
    assert backup.kind is Kind.INCREMENTAL
    assert all(stream.zero_bytes > 0 == stream.data_bytes for stream in backup.streams)
    check_contents(stored.path, stored)
    # Data hides zeroes that hide older data.
    for disk in vm.disks.values():
        disk[4 * KiB : 8 * KiB] = b"x" * 4 * KiB
    stored.back_up(vm)
    check_contents(stored.path, stored)


def test_a_lost_checkpoint_leads_to_a_comparison_that_says_so(
    tmp_path: Path, memory_engine: MemoryEngine
) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    vm.checkpoints.clear()
    change(vm, random.Random(9))
    with pytest.raises(CheckpointGone, match="the engine no longer has the checkpoint"):
        stored.back_up(vm, incremental=True, fallback=False)
    backup = stored.back_up(vm, incremental=True)
    assert "the engine no longer has the checkpoint" in (backup.reason or "")
    assert {(stream.kind, stream.changes) for stream in backup.streams} == {(Kind.INCREMENTAL, "compared")}
    with Repository.open(stored.path) as repository:
        assert repository.record_of(backup.backup_id).streams == backup.streams
        assert content(repository, backup) == stored.contents[backup.backup_id]
