# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams that use frames of others: written from a point's map, and read by everything that reads points."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr import times
from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.points.cached_point import CachedPoint
from pitr.endpoints.points.chain_stream import ChainStream
from pitr.endpoints.points.difference import compare
from pitr.endpoints.points.frame_cache import FrameCache
from pitr.endpoints.points.point import open_point
from pitr.endpoints.points.salvage import open_salvage
from pitr.errors import FormatError, UsageError
from pitr.jobs import find, point_order
from pitr.jobs.known_damage import losses, remember
from pitr.jobs.upkeep.forget import forget
from pitr.jobs.upkeep.prune import Removal
from pitr.jobs.upkeep.records_from_blobs import Recovered, recover
from pitr.jobs.upkeep.retention import Retention, kept_by
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup, Kind, Record, Stream
from pitr.repository import Repository, names
from pitr.repository.chain import resolve_chain
from pitr.repository.damage import StoredDamage
from pitr.repository.index import Index
from pitr.repository.virtual_full import store_virtual_full
from tests.support.points import Writer, applied, blob_path, flip_bit, index_path, read_point

K = 1 << 10
_EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "restore_index.py"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / "repository") as created:
        yield created


def stand_in(repository: Repository, backup: Backup) -> Backup:
    """Commit a synthetic backup that stands for this one."""
    backup_id = str(uuid.uuid4())
    streams = [
        store_virtual_full(
            repository,
            resolve_chain(repository, backup, stream),
            stream,
            backup_id=backup_id,
            stream_id=str(uuid.uuid4()),
        )
        for stream in backup.streams
    ]
    new = replace(
        backup,
        backup_id=backup_id,
        kind=Kind.SYNTHETIC,
        reason=None,
        parent_id=None,
        streams=tuple(streams),
        stands_for=backup.backup_id,
    )
    repository.commit(Record(new, None))
    return new


def chain_of(repository: Repository, *texts: str) -> tuple[Writer, bytearray]:
    """A VM with one disk and its last content; frames have 64 KiB."""
    writer, content = Writer(repository), bytearray()
    for text in texts:
        writer.add(text, frame_size=64 * K)
        content = applied(content, text)
    return writer, content


#: The second point clips the first frame in its middle, and discards another one.
STORY = ("64k:A 64k:B 64k:C 64k:0", "16k:- 8k:X 40k:- 64k:0 128k:-", "200k:- 4k:Y 52k:-")


def the(backup: Backup) -> Stream:
    return backup.streams[0]


def test_a_virtual_full_reads_as_the_point_that_it_stands_for(repository: Repository) -> None:
    writer, content = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    stream = the(new)
    assert stream.blob is None and stream.index == stream.index_copy and new.stored_bytes == 0
    assert [part.stream_id for part in stream.parts] == sorted(the(each).stream_id for each in writer.backups)
    assert sum(part.live_bytes for part in stream.parts) == stream.data_bytes
    assert repository.catalog.get(new.backup_id) == repository.record_of(new.backup_id) == new
    assert read_point(repository, new, stream) == content
    with open_salvage(repository, new, stream) as salvaged, salvaged.open_reader() as reader:
        data = [(each.start, each.length) for each in salvaged.extents() if not each.zero]
        read = bytearray(sum(length for _, length in data))
        reader.read_ranges(data, memoryview(read))
        assert read == b"".join(content[start : start + length] for start, length in data)
        assert salvaged.damaged() == ()
    with FrameCache(1 << 20) as cache, CachedPoint(open_point(repository, new, stream), cache) as cached:
        pieces = cached.read(5 * K, 100 * K)
        assert (
            b"".join(bytes(count) if data is None else data for count, data in pieces)
            == content[5 * K : 105 * K]
        )
    assert verify(repository, Scope(), "full").damage == []


def test_a_frame_that_is_live_in_two_pieces_is_decompressed_once(repository: Repository) -> None:
    writer, _ = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    with open_point(repository, new, the(new)) as point:
        # A and X and C and Y: A is live in two pieces.
        assert point.needed().frames == 4
        copy(point, MemorySink(point.size), workers=1)
        assert point.frames_read == 4


def test_a_virtual_full_passes_front_to_back(repository: Repository) -> None:
    writer, content = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])

    @contextmanager
    def open_blob(backup: Backup, stream: Stream):  # type: ignore[no-untyped-def]
        with blob_path(repository, stream).open("rb") as blob:
            yield blob

    stream = ChainStream(repository, new, the(new), open_blob)
    read = bytearray(stream.size)
    for passing in stream.passing():
        if passing.data is not None:
            read[passing.extent.start : passing.extent.start + passing.extent.length] = passing.data
    assert read == content


def test_the_records_that_it_replaces_may_go(repository: Repository) -> None:
    writer, content = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    writer.add("4k:Z 252k:-", frame_size=64 * K)
    later, old = writer.backups[-1], writer.backups[:-1]
    removal = Removal(repository, dry_run=False, delete_external=None, notify=pytest.fail)
    repository.remove(old[::-1])
    removal.of_unreferenced(timedelta(0))
    assert removal.result.failed == [] and removal.result.unreferenced
    assert not any(
        ".index.db" in name and the(old[0]).stream_id in name for name in repository.store.list(names.INDEXES)
    )
    assert read_point(repository, new, the(new)) == content
    # A backup that is based on the old one reads the stand-in.
    assert read_point(repository, later, the(later)) == applied(content, "4k:Z 252k:-")
    assert verify(repository, Scope(), "full").damage == []
    # And a virtual full of that uses frames of streams whose records are gone.
    again = stand_in(repository, later)
    assert read_point(repository, again, the(again)) == applied(content, "4k:Z 252k:-")
    assert len(the(again).parts) == 4


def test_the_stand_in_is_the_parent_of_later_points(repository: Repository) -> None:
    writer, _ = chain_of(repository, *STORY)
    old = writer.backups[-1]
    new = stand_in(repository, old)
    later = writer.add("4k:Z 252k:-", frame_size=64 * K)
    repository.remove(writer.backups[2::-1])
    points = repository.catalog.points()
    assert points == [later, new] and point_order.newest_first(points, times.now()) == points
    assert find.ancestry(repository.catalog, later) == [new, later]
    assert find.point_named(repository.catalog, old.backup_id).backup == new
    assert kept_by(points, Retention(last=1)) == {
        later.backup_id: ["keep-last 1"],
        new.backup_id: [f"needed by {later.backup_id}"],
    }
    assert repository.catalog.descendants(new.backup_id) == [new.backup_id, later.backup_id]
    with pytest.raises(UsageError, match="other points are based on"):
        forget(repository, [new], [], notify=pytest.fail)
    assert verify(repository, Scope(backup=later), "full").points == 2
    with open_salvage(repository, later, the(later)) as salvaged:
        assert salvaged.damaged() == ()
        assert [list(each) for each in salvaged.extents()] == [
            list(each) for each in resolve_chain(repository, later, the(later)).map.extents()
        ]
    assert len(forget(repository, [new, later], [], notify=pytest.fail).removed) == 2
    assert list(repository.store.list(names.BACKUPS)) == []


@pytest.mark.parametrize("chain", [False, True])
def test_the_example_restores_from_indexes_without_pitr(
    repository: Repository, tmp_path: Path, chain: bool
) -> None:
    writer, content = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    backups = writer.backups if chain else [new]
    if not chain:
        repository.remove(writer.backups[::-1])
    indexes = [index_path(repository, the(backup)) for backup in backups]
    image = tmp_path / "disk.raw"
    subprocess.run([sys.executable, _EXAMPLE, repository.path, image, *indexes], check=True)
    assert image.read_bytes() == content
    blob_path(repository, the(writer.backups[0])).unlink()
    lost = subprocess.run(
        [sys.executable, _EXAMPLE, repository.path, image, *indexes],
        capture_output=True,
        text=True,
        check=False,
    )
    assert lost.returncode != 0 and "is missing" in lost.stderr


def test_a_disk_of_zeroes_has_no_parts(repository: Repository) -> None:
    writer, content = chain_of(repository, "128k:0")
    new = stand_in(repository, writer.backups[-1])
    assert the(new).parts == () and read_point(repository, new, the(new)) == content
    assert verify(repository, Scope(), "full").damage == []


def test_the_map_of_a_point_and_of_its_stand_in_do_not_differ(repository: Repository) -> None:
    writer, _ = chain_of(repository, *STORY)
    backup = writer.backups[-1]
    new = stand_in(repository, backup)
    before = resolve_chain(repository, backup, the(backup))
    difference = compare(repository, before, resolve_chain(repository, new, the(new)))
    assert len(difference.start) == 0


def test_a_damaged_copy_of_the_index_is_told_and_the_other_one_used(repository: Repository) -> None:
    writer, content = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    path = index_path(repository, the(new))
    flip_bit(path, 5000)
    damage = verify(repository, Scope(), "quick").damage
    assert [(each.what, each.kind, each.points_lost) for each in damage] == [("index", "corrupt", ())]
    assert "its other copy is good" in damage[0].message
    assert read_point(repository, new, the(new)) == content
    flip_bit(path.with_name(path.name.replace(".index.db", ".copy.db")), 5000)
    with pytest.raises(StoredDamage, match="digest does not match"):
        read_point(repository, new, the(new))


def test_damage_of_a_part_loses_all_points_that_depend_on_it(repository: Repository) -> None:
    writer, _ = chain_of(repository, *STORY)
    first = writer.backups[0]
    new = stand_in(repository, writer.backups[-1])
    writer.add("4k:Z 252k:-", frame_size=64 * K)
    later = writer.backups[-1]
    repository.remove(writer.backups[2:0:-1])
    with repository.open_index(first, the(first)) as index:
        flip_bit(blob_path(repository, the(first)), int(index.frames().blob_offset[0]) + 20)
    found = verify(repository, Scope(), "full").damage
    everything = {first.backup_id, new.backup_id, later.backup_id}
    assert {damage.what for damage in found} == {"frame"} and set(found[0].points_lost) == everything
    with pytest.raises(StoredDamage) as caught:
        read_point(repository, new, the(new))
    assert caught.value.damage.stream_id == the(first).stream_id
    remember(repository, new.vm.id, "restore", [caught.value.damage], pytest.fail)
    assert {point for loss in losses(repository) for point in loss.points} == everything


def test_verify_reads_blobs_whose_own_records_are_gone(repository: Repository) -> None:
    writer, _ = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    repository.remove(writer.backups[::-1])
    assert verify(repository, Scope(), "full").bytes == sum(part.blob.size for part in the(new).parts)
    first = blob_path(repository, the(writer.backups[0]))
    flip_bit(first, 30)
    assert [(each.what, each.points_lost) for each in verify(repository, Scope(), "full").damage] == [
        ("blob", (new.backup_id,))
    ]
    first.unlink()
    with pytest.raises(StoredDamage, match="it is missing"):
        repository.check_sizes(new, the(new))
    quick = verify(repository, Scope(), "quick").damage
    assert next((each.kind, each.points_lost) for each in quick if each.what == "blob") == (
        "missing",
        (new.backup_id,),
    )


def test_records_from_blobs_bring_no_replaced_point_back(repository: Repository) -> None:
    writer, _ = chain_of(repository, *STORY)
    new = stand_in(repository, writer.backups[-1])
    repository.remove(writer.backups[::-1])
    assert recover(repository) == Recovered((), ())
    repository.remove([new])
    found = recover(repository)
    # Without the record of the virtual full, the blobs give back the points that it replaced.
    assert {backup.backup_id for backup in found.backups} == {each.backup_id for each in writer.backups}
    assert [line for line in found.failed if "no blob can give its point back" in line]


def test_a_blob_outside_the_repository_is_no_part(repository: Repository) -> None:
    writer, _ = chain_of(repository, "64k:A")
    backup = writer.backups[-1]
    resolved = resolve_chain(repository, backup, the(backup))
    source = replace(resolved.sources[0], stream=replace(the(backup), external="zstd"))
    with pytest.raises(UsageError, match="stored externally"):
        store_virtual_full(
            repository, replace(resolved, sources=(source,)), the(backup), backup_id="b", stream_id="s"
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE extent SET part = 7 WHERE start = 0",
        "UPDATE extent SET part = -1 WHERE start = 0",
        "UPDATE extent SET part = 0 WHERE start = 0",
        "UPDATE part SET number = -1 WHERE number = 1",
        "UPDATE part SET blob_size = 10",
        "UPDATE part SET disk_id = x'00'",
        "UPDATE extent SET skip = -1 WHERE start = 0",
        "UPDATE extent SET skip = 1 WHERE start = 0",
        "UPDATE extent SET skip = 9223372036854775807 WHERE start = 0",
        "UPDATE extent SET skip = skip - 1 WHERE start = 24576",
        "UPDATE extent SET skip = NULL WHERE start = 0",
        "UPDATE extent SET frame_length = 100 WHERE start = 0",
        "UPDATE extent SET frame_length = 9223372036854775807 WHERE start = 0",
        "UPDATE extent SET frame_length = 131072 WHERE part IS NOT NULL",
        "UPDATE extent SET digest = zeroblob(32) WHERE start = 0",
        "UPDATE extent SET blob_offset = 0 WHERE start = 24576",
        "UPDATE extent SET blob_length = blob_length - 1 WHERE start = 0",
    ],
)
def test_an_impossible_index_of_parts_is_refused(repository: Repository, statement: str) -> None:
    writer, _ = chain_of(repository, *STORY)
    path = index_path(repository, the(stand_in(repository, writer.backups[-1])))
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(statement).rowcount > 0
    connection.close()
    with pytest.raises(FormatError), Index(path) as index:
        index.extents()
        for part in index.parts:
            index.frames(part.number)


def _random_text(chance: random.Random, size: int, *, full: bool) -> str:
    left, words = size, []
    while left:
        length = min(left, chance.randint(1, 24) * 4 * K)
        words.append(f"{length}:{chance.choice('ABCDEFGH00' if full else 'ABCDE0-------')}")
        left -= length
    return " ".join(words)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32))
def test_points_stay_as_they_were_after_any_replacements(tmp_path: Path, seed: int) -> None:
    """Incrementals of a disk that grows and shrinks, now and then a stand-in, and old records that go."""
    chance = random.Random(seed)
    with Repository.create(tmp_path / str(uuid.uuid4())) as repository:
        writer, content = Writer(repository), bytearray()
        expected: dict[str, bytes] = {}
        for number in range(8):
            size = chance.randint(20, 80) * 4 * K
            text = _random_text(chance, size, full=number == 0)
            backup = writer.add(text, frame_size=64 * K)
            content = applied(content, text)
            expected[backup.backup_id] = bytes(content)
            if chance.random() < 0.4:
                new = stand_in(repository, backup)
                expected[new.backup_id] = bytes(content)
                gone = [old for old in writer.backups if old.backup_id in expected]
                repository.remove(gone[::-1])
                for old in gone:
                    del expected[old.backup_id]
                Removal(repository, False, None, pytest.fail).of_unreferenced(timedelta(0))
        points = repository.catalog.points()
        assert {backup.backup_id for backup in points} == set(expected)
        for backup in points:
            assert read_point(repository, backup, the(backup), workers=1) == expected[backup.backup_id]
        assert verify(repository, Scope(), "full", workers=1).damage == []
