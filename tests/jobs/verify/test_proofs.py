# SPDX-License-Identifier: GPL-2.0-or-later
"""What checks have read is noted: which streams, when, and since when a whole point is known to be good."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pitr import times
from pitr.jobs import proofs
from pitr.jobs.upkeep.prune import prune
from pitr.jobs.upkeep.retention import Retention
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.lab import Lab
from pitr.model import Kind, Part
from pitr.repository import Repository, names
from pitr.repository import proofs as stored_proofs
from tests.support.lab import MiB, make_vm
from tests.support.memory_engine import MemoryEngine
from tests.support.pitr import Pitr
from tests.support.points import VM, Writer, backup_of, blob_path, fake_stream
from tests.support.stored_points import chain_of_three

pytestmark = pytest.mark.usefixtures("quick_disk")

NOON = datetime(2020, 7, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def later(self, hours: int) -> datetime:
        self.time += timedelta(hours=hours)
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(times, "now", clock)
    return clock


@pytest.fixture
def writer(repository: Repository) -> Writer:
    writer = Writer(repository)
    for text in ("64k:A 64k:B", "64k:C 64k:-", "64k:- 64k:D"):
        writer.add(text, frame_size=1 << 16)
    return writer


def _ids(writer: Writer) -> list[str]:
    return [backup.streams[0].stream_id for backup in writer.backups]


def _share(repository: Repository, *streams: str) -> Any:
    return verify(repository, Scope(streams=frozenset(streams)), "full", workers=1)


def _notes(repository: Repository) -> list[str]:
    return list(repository.store.list(names.PROOFS))


def test_a_full_verify_notes_all_streams_and_proves_the_vm(writer: Writer, clock: Clock) -> None:
    repository = writer.repository
    assert proofs.last_proven(repository) == {}
    assert verify(repository, Scope(), "full", workers=1).ok
    assert proofs.last_read(repository, VM.id) == dict.fromkeys(_ids(writer), NOON)
    assert proofs.last_proven(repository) == {VM.id: NOON}


def test_a_quick_check_and_a_sample_prove_nothing(writer: Writer) -> None:
    verify(writer.repository, Scope(), "quick")
    verify(writer.repository, Scope(), "full", sample_percent=100, workers=1)
    assert _notes(writer.repository) == []


def test_shares_take_what_was_read_least_recently_and_what_never_was_comes_first(
    writer: Writer, clock: Clock
) -> None:
    repository = writer.repository
    first, second, third = _ids(writer)
    assert _share(repository, second).streams == 1
    clock.later(24)
    _share(repository, third)
    order = [each.stream.stream_id for each in proofs.least_recently_read(repository, [VM])]
    assert order == [first, second, third]
    # The chain of the point was not read completely.
    assert proofs.last_proven(repository) == {}
    clock.later(24)
    _share(repository, first)
    clock.later(24)
    writer.add("64k:E 64k:-", frame_size=1 << 16)
    listed = proofs.least_recently_read(repository, [VM])
    assert [each.read for each in listed] == [None, *(NOON + timedelta(hours=hours) for hours in (0, 24, 48))]
    assert listed[0].stream.stream_id == _ids(writer)[-1]
    # The full alone was read last; both points above it since the first share at most.
    assert proofs.last_proven(repository) == {VM.id: NOON + timedelta(hours=48)}


def test_a_new_note_replaces_the_old_one_and_keeps_what_it_says(writer: Writer, clock: Clock) -> None:
    repository = writer.repository
    first, second, third = _ids(writer)
    for stream in (first, second):
        _share(repository, stream)
        clock.later(1)
    assert len(_notes(repository)) == 1
    assert proofs.last_read(repository, VM.id) == {first: NOON, second: NOON + timedelta(hours=1)}
    # After an interruption there are two: the latest time counts.
    stored_proofs.add(repository.store, stored_proofs.Proof(VM.id, {third: NOON, first: clock.time}, None))
    expected = {first: clock.time, second: NOON + timedelta(hours=1), third: NOON}
    assert proofs.last_read(repository, VM.id) == expected
    _share(repository, third)
    assert proofs.last_read(repository, VM.id) == expected | {third: clock.time}
    assert len(_notes(repository)) == 1


def test_a_damaged_stream_counts_as_never_read_and_its_points_are_not_proven(
    writer: Writer, clock: Clock
) -> None:
    repository = writer.repository
    first, second, third = _ids(writer)
    blob = blob_path(repository, writer.backups[1].streams[0])
    good = blob.read_bytes()
    verify(repository, Scope(), "full", workers=1)
    harmed = bytearray(good)
    harmed[len(harmed) // 2] ^= 1
    blob.write_bytes(harmed)
    clock.later(24)
    assert not verify(repository, Scope(), "full", workers=1).ok
    assert proofs.last_read(repository, VM.id) == {first: clock.time, third: clock.time}
    assert next(iter(proofs.least_recently_read(repository, [VM]))).stream.stream_id == second
    # The full is still a good point.
    assert proofs.last_proven(repository) == {VM.id: clock.time}


def test_blobs_without_records_have_their_turns(tmp_path: Path, memory_engine: MemoryEngine) -> None:
    stored, vm = chain_of_three(tmp_path / "repository", memory_engine)
    with Repository.open(stored.path) as repository:
        full = repository.catalog.points()[-1].streams[0]
        blob = blob_path(repository, full)
        pruned = prune(repository, Retention(last=1), repository.catalog.vms(), notify=pytest.fail)
        (kept,) = pruned.kept
        parts = {part.stream_id for stream in kept.streams for part in stream.parts}
        assert full.stream_id in parts and kept.streams[0].stream_id != full.stream_id
        listed = proofs.least_recently_read(repository, repository.catalog.vms())
        assert {each.stream.stream_id for each in listed} == parts | {each.stream_id for each in kept.streams}
        assert all(each.backup == kept and each.read is None for each in listed)
        harmed = bytearray(blob.read_bytes())
        harmed[len(harmed) // 2] ^= 1
        blob.write_bytes(harmed)
        for each in listed:
            scope = Scope(vm_id=vm.id, streams=frozenset({each.stream.stream_id}))
            done = verify(repository, scope, "full", workers=1)
            assert done.streams == 1
        assert {damage.stream_id for damage in done.damage} == {full.stream_id}
        assert done.damage[0].points_lost == (kept.backup_id,)
        read = proofs.last_read(repository, vm.id)
        assert parts - set(read) == {full.stream_id}


def test_a_damaged_note_is_no_note(writer: Writer, clock: Clock) -> None:
    repository = writer.repository
    verify(repository, Scope(), "full", workers=1)
    (name,) = _notes(repository)
    repository.store.local_file(name).write_bytes(b"{}")
    assert proofs.last_read(repository, VM.id) == {}
    clock.later(1)
    assert verify(repository, Scope(), "full", workers=1).ok
    assert proofs.last_proven(repository) == {VM.id: clock.time} and len(_notes(repository)) == 1


def test_removed_points_leave_no_note(memory_engine: MemoryEngine, tmp_path: Path) -> None:
    stored, _ = chain_of_three(tmp_path / "repository", memory_engine)
    command = Pitr({"PITR_REPO": str(stored.path), "TZ": "UTC"})
    assert command.json("verify")["ok"]
    command("forget", "web1", "--all")
    with Repository.open(stored.path) as repository:
        assert _notes(repository) == []


@pytest.fixture
def read_only(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    def refuse(name: str, data: bytes) -> None:
        from pitr.errors import RepositoryError

        raise RepositoryError(f"cannot write {name}: read-only file system")

    monkeypatch.setattr(writer.repository.store, "create", refuse)
    yield writer.repository


def test_a_repository_that_cannot_be_written_is_verified_all_the_same(read_only: Repository) -> None:
    lines: list[str] = []
    assert verify(read_only, Scope(), "full", workers=1, notify=lines.append).ok
    assert len(lines) == 1 and "cannot note" in lines[0]


def test_a_comparison_with_the_engine_proves_the_point_but_reads_no_stream_completely(
    lab: Lab, pitr: Pitr
) -> None:
    vm = make_vm(lab, 2 * MiB)
    pitr.backup(vm.name)
    pitr("verify", "--against-engine")
    with Repository.open(pitr.repository) as repository:
        assert set(proofs.last_proven(repository)) == {vm.id}
        assert proofs.last_read(repository, vm.id) == {}


def test_a_stream_of_parts_is_proven_with_the_blobs_that_it_uses() -> None:
    full = fake_stream()
    other = replace(fake_stream(), stream_id="other", kind=Kind.INCREMENTAL, parent_stream_id=full.stream_id)
    parts = tuple(Part(each.disk_id, each.stream_id, 1, each.own_blob) for each in (full, other))
    virtual = replace(
        fake_stream(), stream_id="virtual", kind=Kind.SYNTHETIC, blob=None, parts=parts, index_copy=full.index
    )
    points = [replace(backup_of([virtual]), kind=Kind.SYNTHETIC)]
    later = NOON + timedelta(hours=1)
    assert proofs.point_proven(points, {full.stream_id: NOON}) is None
    assert proofs.point_proven(points, {full.stream_id: NOON, "other": later}) == NOON
    # A point above one that is gone is based on the backup that stands for it.
    gone = backup_of([fake_stream()])
    stand_in = replace(points[0], stands_for=gone.backup_id)
    above = fake_stream(parent=gone.streams[0].stream_id)
    child = backup_of([above], parent_id=gone.backup_id)
    everything = {full.stream_id: NOON, "other": later, above.stream_id: later}
    assert proofs.point_proven([child], everything) is None
    assert proofs.point_proven([child, stand_in], everything) == NOON
