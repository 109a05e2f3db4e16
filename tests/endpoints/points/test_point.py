# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening a point reads each needed index once, and no index of a hidden stream."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from blake3 import blake3

from pitr.endpoints.points.point import open_point
from pitr.model import Backup, Record, StoredObject, Stream
from pitr.repository import Repository, chain
from pitr.repository.damage import StoredDamage
from pitr.repository.index import Index
from pitr.repository.stored_index import ManyIndexes
from tests.support.points import Writer, applied, disk, index_path, read_point

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The streams whose indexes are opened."""
    streams: list[str] = []
    alone, many = Repository.open_index, ManyIndexes.opened

    def open_index(self: Repository, backup: Backup, stream: Stream) -> Index:
        streams.append(stream.stream_id)
        return alone(self, backup, stream)

    def open_one_of_many(self: ManyIndexes, backup: Backup, stream: Stream) -> Index:
        streams.append(stream.stream_id)
        return many(self, backup, stream)

    monkeypatch.setattr(Repository, "open_index", open_index)
    monkeypatch.setattr(ManyIndexes, "opened", open_one_of_many)
    return streams


def a_chain(repository: Repository) -> tuple[Writer, bytearray]:
    writer = Writer(repository)
    texts = ("1m:A 1m:B 1m:0 300k:C", "512k:- 64k:D 3m:-", "2m:- 64k:E 1m:-", "64k:F 64k:0 3m:-")
    content = disk(texts[0])[0]
    for text in texts:
        writer.add(text)
        content = applied(content, text)
    return writer, content


def test_each_index_of_a_chain_is_opened_once(repository: Repository, opened: list[str]) -> None:
    writer, content = a_chain(repository)
    newest = writer.backups[-1]
    assert read_point(repository, newest, newest.streams[0]) == content
    assert opened == [backup.streams[0].stream_id for backup in reversed(writer.backups)]


def test_frames_for_which_there_is_no_room_are_read_when_they_are_needed(
    repository: Repository, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, content = a_chain(repository)
    newest = writer.backups[-1]
    # Three layers of at most two rows fit; the full of four does not.
    monkeypatch.setattr(chain, "_MOST_KEPT", sum(backup.streams[0].extents for backup in writer.backups) - 1)
    with open_point(repository, newest, newest.streams[0]):
        assert len(opened) == 4 + 1
        assert opened[-2:] == [writer.backups[0].streams[0].stream_id] * 2
    assert read_point(repository, newest, newest.streams[0]) == content


def test_frames_that_cannot_be_are_damage_only_where_they_are_needed(repository: Repository) -> None:
    writer = Writer(repository)
    full = writer.add("64k:A", commit=False)
    path = index_path(repository, full.streams[0])
    path.chmod(0o600)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE extent SET digest = x'00'")
    connection.close()
    forged = StoredObject(path.stat().st_size, blake3(path.read_bytes()).hexdigest())
    full = replace(full, streams=(replace(full.streams[0], index=forged),))
    repository.commit(Record(full, None))
    writer.backups.append(full)
    hiding = writer.add("64k:B")
    assert read_point(repository, hiding, hiding.streams[0]) == b"B" * 65536
    with pytest.raises(StoredDamage, match="digests of the wrong length") as raised:
        read_point(repository, full, full.streams[0])
    assert (raised.value.damage.what, raised.value.damage.backup_id) == ("index", full.backup_id)
