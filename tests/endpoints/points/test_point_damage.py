# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a point with damage raises the right StoredDamage, and never returns a wrong byte."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.endpoints.points.point import open_point
from pitr.errors import FormatError
from pitr.model import Backup
from pitr.repository import Repository
from pitr.repository.damage import Damage, StoredDamage
from pitr.repository.index import Index, IndexRow
from tests.repository.test_blob import frame_with_a_lie
from tests.support.points import Writer, blob_path, flip_bit, index_path, read_point, record_path

pytestmark = pytest.mark.usefixtures("quick_disk")

_MIB = 1 << 20


@pytest.fixture
def chain(repository: Repository) -> Writer:
    """A full, and an incremental that hides part of it."""
    writer = Writer(repository)
    writer.add("1m:A 1m:B 1m:0 300k:C")
    writer.add("512k:- 64k:D 3m:-")
    return writer


def _rows(path: Path) -> list[IndexRow]:
    with Index(path) as index:
        return [row for row in index.rows() if row.blob_offset is not None]


def _damage(repository: Repository, backup: Backup) -> Damage:
    with pytest.raises(StoredDamage) as raised:
        read_point(repository, backup, backup.streams[0])
    return raised.value.damage


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_two_swapped_valid_frames_are_found(chain: Writer) -> None:
    full = chain.backups[0].streams[0]
    blob = blob_path(chain.repository, full)
    one, two = _rows(index_path(chain.repository, full))[:2]
    assert one.blob_offset is not None
    assert two.blob_offset is not None
    assert one.blob_length == two.blob_length
    assert one.blob_length is not None
    stored = blob.read_bytes()
    _overwrite(blob, one.blob_offset, stored[two.blob_offset :][: one.blob_length])
    _overwrite(blob, two.blob_offset, stored[one.blob_offset :][: one.blob_length])
    for backup in chain.backups:
        damage = _damage(chain.repository, backup)
        assert (damage.kind, damage.what, damage.stream_id) == ("corrupt", "frame", full.stream_id)
        assert damage.start in (0, _MIB)
        assert damage.length == _MIB


def test_a_frame_that_claims_a_tebibyte_is_corrupt(chain: Writer) -> None:
    full = chain.backups[0].streams[0]
    row = _rows(index_path(chain.repository, full))[1]
    assert row.blob_offset is not None
    _overwrite(blob_path(chain.repository, full), row.blob_offset, frame_with_a_lie(1 << 40, 1))
    damage = _damage(chain.repository, chain.backups[0])
    assert (damage.kind, damage.what, damage.start, damage.length) == ("corrupt", "frame", _MIB, _MIB)
    assert "1099511627776" in damage.message


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    with Repository.create(tmp_path_factory.mktemp("shared") / "repository") as repository:
        writer = Writer(repository)
        writer.add("64k:A 1m:B 64k:0 300k:C")
        writer.add("64k:- 64k:D 1m:- 64k:0 236k:-")
        yield writer


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_in_a_blob_raises_damage_or_returns_the_exact_bytes(
    shared: Writer, number: int, where: float, bit: int
) -> None:
    repository, newest = shared.repository, shared.backups[-1]
    expected = read_point(repository, newest, newest.streams[0])
    stream = shared.backups[number].streams[0]
    blob = blob_path(repository, stream)
    position = int(where * stream.stored_bytes)
    in_frame = any(
        row.blob_offset is not None
        and row.blob_length is not None
        and row.blob_offset <= position < row.blob_offset + row.blob_length
        for row in _rows(index_path(repository, stream))
    )
    whole = blob.read_bytes()
    try:
        flip_bit(blob, position, bit)
        found = read_point(repository, newest, newest.streams[0])
    except StoredDamage as error:
        assert (error.damage.kind, error.damage.what) == ("corrupt", "frame")
        assert in_frame
    else:
        assert found == expected
    finally:
        blob.write_bytes(whole)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_in_an_index_is_always_found(shared: Writer, where: float, bit: int) -> None:
    repository, newest = shared.repository, shared.backups[-1]
    stream = shared.backups[0].streams[0]
    path = index_path(repository, stream)
    flip_bit(path, int(where * stream.index.size), bit)
    try:
        damage = _damage(repository, newest)
    finally:
        flip_bit(path, int(where * stream.index.size), bit)
    assert (damage.kind, damage.what, damage.stream_id) == ("corrupt", "index", stream.stream_id)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("what", ["blob", "index"])
def test_a_missing_object_is_named(chain: Writer, number: int, what: str) -> None:
    stream = chain.backups[number].streams[0]
    (blob_path if what == "blob" else index_path)(chain.repository, stream).unlink()
    damage = _damage(chain.repository, chain.backups[1])
    assert (damage.kind, damage.what, damage.stream_id) == ("missing", what, stream.stream_id)
    assert damage.backup_id == chain.backups[number].backup_id


@pytest.mark.parametrize("what", ["blob", "index"])
def test_a_truncated_object_is_named_with_the_missing_range(chain: Writer, what: str) -> None:
    stream = chain.backups[0].streams[0]
    path = (blob_path if what == "blob" else index_path)(chain.repository, stream)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-7])
    damage = _damage(chain.repository, chain.backups[1])
    assert (damage.kind, damage.what, damage.start, damage.length) == ("truncated", what, size - 7, 7)


@pytest.mark.parametrize("what", ["blob", "index"])
def test_bytes_after_the_end_of_an_object_are_found(chain: Writer, what: str) -> None:
    stream = chain.backups[0].streams[0]
    path = (blob_path if what == "blob" else index_path)(chain.repository, stream)
    path.write_bytes(path.read_bytes() + b"\0")
    damage = _damage(chain.repository, chain.backups[1])
    assert (damage.kind, damage.what) == ("inconsistent", what)


def test_a_blob_that_is_a_symbolic_link_is_not_followed(chain: Writer, tmp_path: Path) -> None:
    blob = blob_path(chain.repository, chain.backups[0].streams[0])
    shutil.move(blob, tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    assert _damage(chain.repository, chain.backups[1]).kind == "corrupt"


def test_swapped_indexes_of_two_streams_are_found(chain: Writer) -> None:
    one, two = (index_path(chain.repository, backup.streams[0]) for backup in chain.backups)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert _damage(chain.repository, chain.backups[1]).what == "index"


def test_a_missing_incremental_in_the_middle_is_a_gap_and_not_a_guess(repository: Repository) -> None:
    writer = Writer(repository)
    for text in ("64k:A", "64k:B", "64k:-"):
        writer.add(text)
    full, middle, newest = writer.backups
    record_path(repository, middle).unlink()
    damage = _damage(repository, newest)
    assert (damage.kind, damage.what) == ("missing", "parent")
    assert middle.streams[0].stream_id in damage.message
    assert read_point(repository, full, full.streams[0]) == b"A" * 65536


def test_only_needed_frames_are_read(chain: Writer) -> None:
    full, newest = chain.backups
    blob = blob_path(chain.repository, full.streams[0])
    with open_point(chain.repository, newest, newest.streams[0]) as point:
        assert point.needed().frames == 4
        with point.open_reader() as reader:
            buffer = bytearray(1024)
            reader.read_ranges([(512 * 1024 - 512, 1024)], memoryview(buffer))
        assert buffer == b"A" * 512 + b"D" * 512
        assert point.frames_read == 2
        assert point.bytes_read < blob.stat().st_size
        with point.open_reader() as reader, pytest.raises(ValueError, match="no data at"):
            reader.read_ranges([(3 * _MIB - 512, 1024)], memoryview(bytearray(1024)))


def _hostile_index(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM stream",
        "INSERT INTO stream SELECT * FROM stream",
        "PRAGMA user_version = 3",
        "PRAGMA application_id = 1",
        "DROP TABLE extent",
        "DROP TABLE stream",
        "UPDATE stream SET size = 'large'",
        "UPDATE extent SET length = 'long' WHERE start = 0",
        "UPDATE extent SET length = -1 WHERE start = 0",
        "UPDATE extent SET length = 9223372036854775807 WHERE start = 0",
        "UPDATE extent SET length = length + 1 WHERE start = 0",
        "UPDATE extent SET start = -5 WHERE start = 0",
        "DELETE FROM extent WHERE start = 0",
        "UPDATE extent SET blob_offset = -1 WHERE start = 0",
        "UPDATE extent SET blob_offset = 9223372036854775807 WHERE start = 0",
        "UPDATE extent SET blob_length = 9223372036854775807 WHERE start = 0",
        "UPDATE extent SET blob_length = 0 WHERE start = 0",
        "UPDATE extent SET blob_length = NULL WHERE start = 0",
        "UPDATE extent SET blob_offset = 'here' WHERE start = 0",
        "UPDATE extent SET blob_offset = 0",
        "UPDATE extent SET digest = NULL WHERE start = 0",
        "UPDATE extent SET digest = x'00' WHERE start = 0",
        "UPDATE extent SET digest = 'text' WHERE start = 0",
        "UPDATE stream SET frame_size = 0",
        "UPDATE stream SET frame_size = 4096",
        "UPDATE stream SET frame_size = -1",
        "UPDATE part SET blob_size = 0",
    ],
)
def test_an_impossible_index_is_refused(chain: Writer, statement: str) -> None:
    path = index_path(chain.repository, chain.backups[0].streams[0])
    _hostile_index(path, statement)
    with pytest.raises(FormatError), Index(path) as index:
        index.extents()
        index.frames()
        list(index.rows())


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_not_an_index_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.index.db").write_bytes(content)
    with pytest.raises(FormatError):
        Index(tmp_path / "x.index.db")


def test_an_index_in_a_folder_whose_name_is_not_utf_8_opens(tmp_path: Path) -> None:
    path = Path(str(tmp_path) + "/caf\udce9 100%?#")
    with Repository.create(path) as repository:
        writer = Writer(repository)
        writer.add("64k:A")
        assert read_point(repository, writer.backups[0], writer.backups[0].streams[0]) == b"A" * 65536
