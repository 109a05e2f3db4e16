# SPDX-License-Identifier: GPL-2.0-or-later
"""A check of many points takes time in proportion to them, and the memory of one VM."""

from __future__ import annotations

import gc
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pitr.errors import FormatError
from pitr.jobs.verify import blob_check, chain_links, stored_data
from pitr.jobs.verify.ahead import read_ahead
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup, Stream, VMName
from pitr.repository import Repository, index
from pitr.repository.blob import BlobWriter
from pitr.repository.damage import StoredDamage
from pitr.repository.index import Index
from pitr.repository.parents import parent_of as real_parent_of
from pitr.system.closing import Closes
from tests.support.points import Writer, backup_of, fake_stream, index_path, record_path

LEVELS: list[stored_data.Level] = ["quick", "full"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository")


def make_vms(repository: Repository, count: int, points: int) -> list[Writer]:
    writers = []
    for number in range(count):
        writer = Writer(repository, VMName(str(uuid.UUID(int=number + 1)), f"web{number}"))
        for at in range(points):
            writer.add("64k:A 64k:0" if at == 0 else "64k:B 64k:-")
        writers.append(writer)
    return writers


@pytest.mark.parametrize("level", LEVELS)
def test_each_record_is_read_once_and_each_link_is_followed_once(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, level: stored_data.Level
) -> None:
    make_vms(repository, 1, 8)
    followed: list[str] = []

    def parent_of(backup: Backup, stream: Stream, *others: Any) -> tuple[Backup, Stream]:
        followed.append(stream.stream_id)
        return real_parent_of(backup, stream, *others)

    monkeypatch.setattr(chain_links, "parent_of", parent_of)
    read: Counter[str] = Counter()
    real_read = Repository.read_record

    def read_record(self: Repository, name: str) -> Any:
        read[name] += 1
        return real_read(self, name)

    monkeypatch.setattr(Repository, "read_record", read_record)
    verified = verify(repository, Scope(), level)
    assert verified.ok and verified.points == verified.streams == 8
    assert len(followed) == len(set(followed)) == 7
    assert set(read.values()) == {1} and len(read) == 8


def test_only_one_vms_points_are_in_memory(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = make_vms(repository, 4, 2)
    for writer in writers:
        writer.backups.clear()
    held: list[int] = []
    real = chain_links.linked_streams

    def linked_streams(*arguments: Any) -> Any:
        gc.collect()
        held.append(len({each.vm.id for each in gc.get_objects() if isinstance(each, Backup)}))
        return real(*arguments)

    monkeypatch.setattr(stored_data, "linked_streams", linked_streams)
    verified = verify(repository, Scope(), "quick")
    assert verified.ok and verified.points == 8
    assert held == [1, 1, 1, 1]


def test_damage_of_every_vm_is_found(repository: Repository) -> None:
    """Also of a VM whose records are all lost, and in a record that the catalog never knew."""
    first, second, third = make_vms(repository, 3, 2)
    index_path(repository, first.backups[0].streams[0]).unlink()
    for backup in second.backups:
        record_path(repository, backup).unlink()
    unknown = record_path(repository, third.backups[0]).with_name("20200101T000000Z-unknown.json")
    unknown.write_bytes(b"{}")
    stray = repository.path / "backups" / "stray"
    stray.write_bytes(b"{}")
    verified = verify(repository, Scope(), "quick")
    found = {(damage.what, damage.kind) for damage in verified.damage}
    assert {("index", "missing"), ("record", "missing"), ("record", "corrupt")} <= found
    lost = {point for damage in verified.damage for point in damage.points_lost}
    assert {each.backup_id for each in [*first.backups, *second.backups]} <= lost
    assert not {each.backup_id for each in third.backups} & lost
    assert verified.points == 4


def test_a_broken_link_is_reported_once_and_spoils_the_chains_above_it(repository: Repository) -> None:
    (writer,) = make_vms(repository, 1, 4)
    full, broken, *above = writer.backups
    backups = list(writer.backups)
    stranger = backup_of([fake_stream()], backup_id=full.backup_id, vm=full.vm)
    found: list[tuple[StoredDamage, Backup]] = []
    streams, whole = chain_links.linked_streams(
        repository, [stranger, *backups[1:]], lambda error, backup: found.append((error, backup))
    )
    assert [(error.damage.stream_id, backup) for error, backup in found] == [
        (broken.streams[0].stream_id, broken)
    ]
    assert streams.keys() == {each.streams[0].stream_id for each in [stranger, broken, *above]}
    assert whole == {stranger.streams[0].stream_id}


def _damaged(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "UPDATE extent SET length = -1 WHERE start = 0",
        "UPDATE extent SET length = 1 << 40 WHERE start = 0",
        "UPDATE extent SET part = 7 WHERE part IS NOT NULL",
        "UPDATE extent SET part = 'none' WHERE part IS NOT NULL",
        "UPDATE extent SET blob_offset = NULL WHERE part IS NOT NULL",
        "UPDATE extent SET blob_offset = 1 << 40 WHERE part IS NOT NULL",
        "UPDATE extent SET digest = x'00' WHERE part IS NOT NULL",
        "UPDATE extent SET skip = 5 WHERE part IS NOT NULL",
        "UPDATE extent SET length = 'long' WHERE start = 0",
        "DELETE FROM extent WHERE part IS NULL",
    ],
)
def test_an_index_with_few_rows_is_checked_like_one_with_many(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    backup = Writer(repository).add("64k:A 64k:0 64k:B 64k:C")
    path = index_path(repository, backup.streams[0])
    path.chmod(0o600)
    _damaged(path, statement)
    said = []
    for rows_at_once, few_rows in [(index._ROWS_AT_ONCE, 64), (index._ROWS_AT_ONCE, 0), (1, 64)]:
        monkeypatch.setattr(index, "_ROWS_AT_ONCE", rows_at_once)
        monkeypatch.setattr(index, "_FEW_ROWS", few_rows)
        with Index(path) as opened:
            try:
                said.append(str(opened.checked_totals()))
            except FormatError as error:
                said.append("wrong" if error.message else "")
    assert (
        said[0] == said[1] == said[2] == ("wrong" if statement != "SELECT 1" else str((3, 3 << 16, 1 << 16)))
    )


class _Blob(Closes):
    """A stored file in memory that notes how much of it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)
        self.read: list[int] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.read.append(length)
        return self._content[offset : offset + length]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("note", "reads"), [("short", [4096]), ("long", [4096, 1 << 20])])
def test_a_quick_check_reads_little_of_a_blob(note: str, reads: Sequence[int]) -> None:
    stream = fake_stream()
    written = bytearray()
    noise = "".join(str(uuid.uuid4()) for _ in range(400)) if note == "long" else ""
    meta = {"virtual-size": stream.size, "incremental": False, "stream-id": stream.stream_id, "note": noise}
    writer = BlobWriter(written.extend, meta)
    writer.add_data(0, 4096, bytes(2 << 20))
    writer.finish()
    blob = _Blob(bytes(written))
    blob_check.check_head(backup_of([stream]), stream, blob)
    assert blob.read == reads
    swapped = fake_stream()
    with pytest.raises(StoredDamage, match="it is the blob of the stream"):
        blob_check.check_head(backup_of([swapped]), swapped, blob)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_read_ahead_comes_in_order_with_its_errors(threads: int) -> None:
    gate = threading.Event()

    def read(number: int) -> int:
        if threads > 1 and number == 0:
            # The first one is ready only after the second one.
            assert gate.wait(60)
        if number == 1:
            gate.set()
        if number == 5:
            raise ValueError("five")
        return number * 10

    found: list[int] = []
    with pytest.raises(ValueError, match="five"):
        found.extend(_each(read_ahead(read, range(20), threads), found.append))
    assert found == [0, 10, 20, 30, 40]


def _each(values: Any, use: Callable[[int], None]) -> list[int]:
    for value in values:
        use(value)
    return []
