# SPDX-License-Identifier: GPL-2.0-or-later
"""Extent indexes: the place of each range of the disk in a blob (schema/index.sql)."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pitr.errors import FormatError, RepositoryError
from pitr.extents import MAX_SIZE, ExtentMap, Int64Array
from pitr.repository import schema, sqlite
from pitr.system.closing import Closes

_APPLICATION_ID = 0x70697478
_VERSION = 1
_ROWS_AT_ONCE = 1 << 16


class IndexRow(NamedTuple):
    """One row of the extent table. For a zero range the last three columns are None."""

    start: int
    length: int
    blob_offset: int | None
    blob_length: int | None
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class StreamRow:
    """The stream that the index belongs to, as the index itself states it."""

    stream_id: str
    backup_id: str
    disk_id: str
    kind: str
    size: int
    parent_stream_id: str | None
    frame_size: int
    blob_size: int
    blob_digest: str


class IndexWriter:
    """Writes a new index file, with rows in the order of the disk. Raises RepositoryError (full disk)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._writing():
            self._connection = sqlite.connect(path, create=True)
            # No journal is needed: nothing reads the file before it is complete, and the store syncs it as a whole.
            self._connection.execute("PRAGMA journal_mode = OFF")
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.executescript(schema.read("index.sql"))
            self._connection.execute("BEGIN")
        self.rows = 0

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RepositoryError(f"cannot write the extent index {self._path.name}: {error}") from error

    def add(self, rows: list[IndexRow]) -> None:
        """Add the next rows."""
        with self._writing():
            self._connection.executemany("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", rows)
        self.rows += len(rows)

    def finish(self, stream: StreamRow) -> None:
        """Complete the index of `stream`, and close it."""
        with self._writing():
            self._connection.execute(
                "INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    stream.stream_id,
                    stream.backup_id,
                    stream.disk_id,
                    stream.kind,
                    stream.size,
                    stream.parent_stream_id,
                    stream.frame_size,
                    stream.blob_size,
                    stream.blob_digest,
                ),
            )
            self._connection.execute("COMMIT")
        self.close()

    def close(self) -> None:
        self._connection.close()


class Index(Closes):
    """A complete index file, opened for reading by one thread at a time. Raises FormatError for a damaged one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._reading():
            self._connection = sqlite.connect_read_only(path, immutable=True)
        try:
            self.stream = self._read_stream()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise FormatError(f"the extent index {self._path.name} cannot be read: {error}") from None

    def _read_stream(self) -> StreamRow:
        with self._reading():
            application_id = self._connection.execute("PRAGMA application_id").fetchone()[0]
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if application_id != _APPLICATION_ID:
                raise FormatError(f"{self._path.name} is not an extent index")
            if version != _VERSION:
                raise FormatError(f"pitr cannot read version {version} of the extent index {self._path.name}")
            rows = self._connection.execute("SELECT * FROM stream").fetchall()
            if len(rows) != 1:
                raise FormatError(f"{self._path.name} names {len(rows)} streams instead of one")
            stream = StreamRow(*rows[0])
        # SQLite does not enforce the types of columns.
        numbers = (stream.size, stream.frame_size, stream.blob_size)
        texts = (stream.stream_id, stream.backup_id, stream.disk_id, stream.kind, stream.blob_digest)
        if (
            not all(isinstance(number, int) and 0 <= number <= MAX_SIZE for number in numbers)
            or not all(isinstance(text, str) for text in texts)
            or not isinstance(stream.parent_stream_id, str | None)
        ):
            raise FormatError(f"{self._path.name} names an invalid stream")
        return stream

    def count(self) -> int:
        """Return the number of rows."""
        with self._reading():
            return int(self._connection.execute("SELECT count(*) FROM extent").fetchone()[0])

    def rows(self) -> Iterator[IndexRow]:
        """Yield all rows in the order of the disk."""
        with self._reading():
            for row in self._connection.execute(
                "SELECT start, length, blob_offset, blob_length, digest FROM extent ORDER BY start"
            ):
                yield IndexRow(*row)

    def extents(self) -> ExtentMap:
        """Return the rows as a checked extent map for the resolver, one range for each row."""
        count = self.count()
        extents = ExtentMap(np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.bool_))
        columns = (extents.start, extents.length, extents.zero)
        self._fill("SELECT start, length, blob_offset IS NULL FROM extent ORDER BY start", columns)
        if self.stream.kind != "incremental" and not extents.covers(self.stream.size):
            raise FormatError(f"the extent index {self._path.name} of a full stream does not cover the disk")
        return extents.checked(self.stream.size, whole=False)

    def frames(self) -> Frames:
        """Return all frames, checked against the sizes of frame and blob."""
        where = "FROM extent WHERE blob_offset IS NOT NULL"
        with self._reading():
            count = int(self._connection.execute(f"SELECT count(*) {where}").fetchone()[0])
        start, length, offset, stored = (np.empty(count, np.int64) for _ in range(4))
        query = f"SELECT start, length, blob_offset, blob_length {where} ORDER BY start"
        self._fill(query, (start, length, offset, stored))
        digests = bytearray()
        with self._reading():
            cursor = self._connection.execute(f"SELECT digest {where} ORDER BY start")
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                digests += b"".join(row[0] for row in rows)
        frames = Frames(start, length, offset, stored, np.frombuffer(digests, np.uint8))
        frames.check(self.stream)
        return frames

    def _fill(self, query: str, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Fill `columns` with the integers of `query`, some rows at a time, so that no second copy takes memory."""
        count, width = len(columns[0]), len(columns)
        with self._reading():
            cells = itertools.chain.from_iterable(self._connection.execute(query))
            for at in range(0, count, _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, count - at)
                table = np.fromiter(cells, np.int64, rows * width).reshape(rows, width)
                for number, column in enumerate(columns):
                    column[at : at + rows] = table[:, number]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of one stream in the order of the disk: four int64 arrays (bytes) and 32 bytes of digest for each."""

    start: Int64Array
    length: Int64Array
    blob_offset: Int64Array
    blob_length: Int64Array
    digests: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

    def __len__(self) -> int:
        return len(self.start)

    def digest(self, frame: int) -> bytes:
        """Return the digest of the frame with this number, 32 bytes."""
        return self.digests[32 * frame : 32 * frame + 32].tobytes()

    def check(self, stream: StreamRow) -> None:
        """Raise FormatError if a frame cannot be in this stream's blob."""
        if len(self.digests) != 32 * len(self):
            raise FormatError("the extent index has digests of the wrong length")
        size = stream.frame_size
        if not 0 < size <= MAX_SIZE:
            raise FormatError(f"the extent index has the impossible frame size {size}")
        bad = (
            (self.blob_offset < 0)
            | (self.blob_length <= 0)
            | (self.blob_length > stream.blob_size)
            | (self.blob_offset > stream.blob_size - self.blob_length)
            | (self.start // size != (self.start + self.length - 1) // size)
        )
        bad[1:] |= self.blob_offset[1:] < self.blob_offset[:-1] + self.blob_length[:-1]
        if bad.any():
            at = int(self.start[np.flatnonzero(bad)[0]])
            raise FormatError(f"the extent index has an impossible frame for the range at {at}")
