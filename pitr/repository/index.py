# SPDX-License-Identifier: GPL-2.0-or-later
"""Extent indexes: the place of each range of the disk in a blob (schema/index.sql).

The frames of a stream are in the blobs of its parts: its own blob, and blobs of other streams.
"""

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
from pitr.extents import MAX_SIZE, BoolArray, ExtentMap, Int64Array
from pitr.model import Stream
from pitr.repository import schema, sqlite
from pitr.repository.few_rows import totals_of_good_rows
from pitr.system.closing import Closes

_APPLICATION_ID = 0x70697478
_VERSION = 2
_ROWS_AT_ONCE = 1 << 16
#: Up to so many rows, a loop is as fast as arrays.
_FEW_ROWS = 64
_ALL_ROWS = (
    "SELECT start, length, part, blob_offset, blob_length, frame_length, skip, digest "
    "FROM extent ORDER BY start LIMIT ?"
)
#: Digests as items of an array.
DIGEST = np.dtype("V32")
#: The number of the part that is the stream's own blob.
OWN = 0


class IndexRow(NamedTuple):
    """One row of the extent table. For a zero range the offset, the stored length and the digest are None.

    The row is `[skip, skip + length)` of a frame of `frame_length` bytes (None: as long as the row) in the blob of
    part number `part`.
    """

    start: int
    length: int
    blob_offset: int | None
    blob_length: int | None
    digest: bytes | None
    frame_length: int | None = None
    skip: int = 0
    part: int = OWN

    def columns(self) -> tuple[int | bytes | None, ...]:
        """Return the values in the order of the table's columns."""
        if self.blob_offset is None:
            return (self.start, self.length, None, None, None, None, None, None)
        frame_length = self.length if self.frame_length is None else self.frame_length
        place = (self.part, self.blob_offset, self.blob_length, frame_length, self.skip)
        return (self.start, self.length, *place, self.digest)


class PartRow(NamedTuple):
    """One row of the part table: a blob that holds frames of the stream. Number OWN is the stream's own blob."""

    number: int
    disk_id: str
    stream_id: str
    blob_size: int
    blob_digest: str


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


def parts_of(stream: Stream) -> tuple[PartRow, ...]:
    """Return the parts that the index of a stream must have. Part OWN is absent if the stream has no blob."""
    blob = stream.blob
    if not stream.parts:
        # A virtual full of a disk that reads as zero has no part at all.
        own = PartRow(OWN, stream.disk_id, stream.stream_id, blob.size, blob.digest) if blob else None
        return (own,) if own is not None else ()
    first = OWN if blob is not None else OWN + 1
    return tuple(
        PartRow(number, part.disk_id, part.stream_id, part.blob.size, part.blob.digest)
        for number, part in enumerate(stream.parts, first)
    )


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
            self._connection.executemany(
                "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(IndexRow.columns, rows)
            )
        self.rows += len(rows)

    def finish(self, stream: StreamRow, parts: Sequence[PartRow]) -> None:
        """Complete the index of `stream` with its parts, and close it."""
        with self._writing():
            self._connection.executemany("INSERT INTO part VALUES (?, ?, ?, ?, ?)", parts)
            self._connection.execute(
                "INSERT INTO stream VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    stream.stream_id,
                    stream.backup_id,
                    stream.disk_id,
                    stream.kind,
                    stream.size,
                    stream.parent_stream_id,
                    stream.frame_size,
                ),
            )
            self._connection.execute("COMMIT")
        self.close()

    def close(self) -> None:
        self._connection.close()


class Index(Closes):
    """A complete index file, opened for reading by one thread at a time. Raises FormatError for a damaged one."""

    def __init__(self, path: Path, opened: sqlite3.Connection | None = None) -> None:
        """Open the file, or use an `opened` connection to its content; `close` does not close that."""
        self._path = path
        self._shared = opened is not None
        with self._reading():
            self._connection = opened or sqlite.connect_read_only(path, immutable=True)
        try:
            self.stream = self._read_stream()
            self.parts = self._read_parts()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if not self._shared:
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
        numbers = (stream.size, stream.frame_size)
        texts = (stream.stream_id, stream.backup_id, stream.disk_id, stream.kind)
        if (
            not all(isinstance(number, int) and 0 <= number <= MAX_SIZE for number in numbers)
            or not all(isinstance(text, str) for text in texts)
            or not isinstance(stream.parent_stream_id, str | None)
        ):
            raise FormatError(f"{self._path.name} names an invalid stream")
        return stream

    def _read_parts(self) -> tuple[PartRow, ...]:
        with self._reading():
            query = "SELECT number, disk_id, stream_id, blob_size, blob_digest FROM part ORDER BY number"
            parts = tuple(PartRow(*row) for row in self._connection.execute(query))
        for part in parts:
            texts = (part.disk_id, part.stream_id, part.blob_digest)
            # A changed byte in the file can change any value, also the key.
            numbers_fit = isinstance(part.number, int) and isinstance(part.blob_size, int)
            if (
                not numbers_fit
                or not 0 <= part.blob_size <= MAX_SIZE
                or not all(isinstance(text, str) for text in texts)
            ):
                raise FormatError(f"{self._path.name} names an invalid part")
        return parts

    def count(self) -> int:
        """Return the number of rows."""
        with self._reading():
            return int(self._connection.execute("SELECT count(*) FROM extent").fetchone()[0])

    def rows(self, first: int = 0, last: int = MAX_SIZE) -> Iterator[IndexRow]:
        """Yield the rows that start in `[first, last)` on the disk, by default all, in the order of the disk."""
        query = (
            "SELECT start, length, blob_offset, blob_length, digest, frame_length, skip, part "
            "FROM extent WHERE start >= ? AND start < ? ORDER BY start"
        )
        with self._reading():
            for row in self._connection.execute(query, [first, last]):
                yield IndexRow(*row) if row[7] is not None else IndexRow(row[0], row[1], None, None, None)

    def extents(self) -> ExtentMap:
        """Return the rows as a checked extent map for the resolver, one range for each row."""
        count = self.count()
        extents = ExtentMap(np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.bool_))
        columns = (extents.start, extents.length, extents.zero)
        self._fill("SELECT start, length, part IS NULL FROM extent ORDER BY start", columns)
        # A row that is in no part would read another row's frame.
        unknown = "SELECT start FROM extent WHERE part IS NOT NULL AND part NOT IN (SELECT number FROM part)"
        with self._reading():
            row = self._connection.execute(unknown).fetchone()
        if row is not None:
            raise self._in_unknown_part()
        return self._checked(extents)

    def _in_unknown_part(self) -> FormatError:
        return FormatError(f"the extent index {self._path.name} has a frame in an unknown part")

    def _checked(self, extents: ExtentMap) -> ExtentMap:
        if any(part.number < OWN for part in self.parts):
            raise self._in_unknown_part()
        if self.stream.kind != "incremental" and not extents.covers(self.stream.size):
            raise FormatError(f"the extent index {self._path.name} of a full stream does not cover the disk")
        return extents.checked(self.stream.size, whole=False)

    def checked_totals(self) -> tuple[int, int, int]:
        """Check all rows, as `extents` and `frames` of all parts do.

        Return their number, and the bytes of data and of zeroes. An index with few rows is read in one pass.
        """
        with self._reading():
            cursor = self._connection.execute(_ALL_ROWS, [_ROWS_AT_ONCE + 1])
            rows = cursor.fetchall()
        if len(rows) > _ROWS_AT_ONCE:
            extents = self.extents()
            self.part_numbers()
            for part in self.parts:
                self.frames(part.number)
            return len(extents), extents.data_bytes, extents.zero_bytes
        if len(rows) <= _FEW_ROWS and (totals := self._totals_of_few(rows)) is not None:
            return len(rows), *totals
        extents = self._maps_of(rows).extents
        return len(rows), extents.data_bytes, extents.zero_bytes

    def maps(self, limit: int) -> IndexMaps | None:
        """Return what the index holds, read in one pass; None if there are more rows than `limit`."""
        with self._reading():
            rows = self._connection.execute(_ALL_ROWS, [limit + 1]).fetchall()
        return None if len(rows) > limit else self._maps_of(rows)

    def _maps_of(self, rows: Sequence[tuple[Any, ...]]) -> IndexMaps:
        with self._reading():
            extents = self._checked(
                ExtentMap(
                    np.fromiter((row[0] for row in rows), np.int64, len(rows)),
                    np.fromiter((row[1] for row in rows), np.int64, len(rows)),
                    np.fromiter((row[2] is None for row in rows), np.bool_, len(rows)),
                )
            )
            by_part: dict[int, list[tuple[Any, ...]]] = {each.number: [] for each in self.parts}
            for row in rows:
                if row[2] is not None:
                    if row[2] not in by_part:
                        raise self._in_unknown_part()
                    by_part[row[2]].append(row)
            frames: dict[int, Frames] = {}
            for each in self.parts:
                columns = list(zip(*by_part[each.number], strict=True)) or [()] * 8
                start, length, offset, stored, frame_length, skip = (
                    np.fromiter(columns[at], np.int64, len(columns[at])) for at in (0, 1, 3, 4, 5, 6)
                )
                digests = np.frombuffer(b"".join(columns[7]), np.uint8)
                of_part = Frames(start, length, offset, stored, frame_length, skip, digests)
                of_part.check(self.stream.frame_size, each.blob_size, own=each.number == OWN)
                frames[each.number] = of_part
            parts = np.fromiter((-1 if row[2] is None else row[2] for row in rows), np.int64, len(rows))
        return IndexMaps(extents, parts, frames)

    def _totals_of_few(self, rows: Sequence[tuple[Any, ...]]) -> tuple[int, int] | None:
        stream, blob_sizes = self.stream, {part.number: part.blob_size for part in self.parts}
        if not 0 < stream.frame_size <= MAX_SIZE or min(blob_sizes, default=OWN) < OWN:
            return None
        whole = stream.kind != "incremental"
        return totals_of_good_rows(rows, stream.size, stream.frame_size, blob_sizes, own=OWN, whole=whole)

    def part_numbers(self) -> Int64Array:
        """Return the number of each row's part, -1 for a zero range, in the order of `extents`."""
        numbers = np.empty(self.count(), np.int64)
        self._fill("SELECT ifnull(part, -1) FROM extent ORDER BY start", (numbers,))
        return numbers

    def frames(self, part: int = OWN) -> Frames:
        """Return the rows of one part that hold data, checked against the sizes of frame and blob."""
        where = "FROM extent WHERE part = ?"
        of_part = next((each for each in self.parts if each.number == part), None)
        with self._reading():
            count = int(self._connection.execute(f"SELECT count(*) {where}", [part]).fetchone()[0])
        if of_part is None and count:
            raise FormatError(f"the extent index {self._path.name} has a frame in the unknown part {part}")
        columns = [np.empty(count, np.int64) for _ in range(6)]
        query = f"SELECT start, length, blob_offset, blob_length, frame_length, skip {where} ORDER BY start"
        self._fill(query, columns, [part])
        digests = bytearray()
        with self._reading():
            cursor = self._connection.execute(f"SELECT digest {where} ORDER BY start", [part])
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                digests += b"".join(row[0] for row in rows)
        start, length, offset, stored, frame_length, skip = columns
        frames = Frames(start, length, offset, stored, frame_length, skip, np.frombuffer(digests, np.uint8))
        frames.check(self.stream.frame_size, of_part.blob_size if of_part is not None else 0, own=part == OWN)
        return frames

    def _fill(self, query: str, columns: Sequence[npt.NDArray[Any]], values: Sequence[int] = ()) -> None:
        """Fill `columns` with the integers of `query`, some rows at a time, so that no second copy takes memory."""
        count, width = len(columns[0]), len(columns)
        with self._reading():
            cells = itertools.chain.from_iterable(self._connection.execute(query, values))
            for at in range(0, count, _ROWS_AT_ONCE):
                rows = min(_ROWS_AT_ONCE, count - at)
                table = np.fromiter(cells, np.int64, rows * width).reshape(rows, width)
                for number, column in enumerate(columns):
                    column[at : at + rows] = table[:, number]


@dataclass(frozen=True, slots=True)
class IndexMaps:
    """What an index holds: its extents, the number of each extent's part (-1: zero range), the frames of each part."""

    extents: ExtentMap
    parts: Int64Array
    frames: dict[int, Frames]


@dataclass(frozen=True, slots=True)
class Frames:
    """Pieces of the frames in one blob, in the order of the disk: int64 arrays (bytes), and 32 bytes of digest each.

    `start` and `length` are the piece on the disk. `skip` is its offset in the uncompressed frame, which has
    `frame_length` bytes. The pieces of one frame follow each other, with the same place in the blob.
    """

    start: Int64Array
    length: Int64Array
    blob_offset: Int64Array
    blob_length: Int64Array
    frame_length: Int64Array
    skip: Int64Array
    digests: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

    def __len__(self) -> int:
        return len(self.start)

    def digest(self, number: int) -> bytes:
        """Return the digest of the frame of the piece with this number, 32 bytes."""
        return self.digests[32 * number : 32 * number + 32].tobytes()

    def origin(self, number: int) -> int:
        """Return the place of the frame's first byte on the disk; the frame may be live only in part."""
        return int(self.start[number] - self.skip[number])

    def numbers_of(self, starts: Int64Array) -> Int64Array:
        """Return for each range that begins in a piece the number of the first piece of that frame."""
        numbers = self.start.searchsorted(starts, side="right") - 1
        return self.blob_offset.searchsorted(self.blob_offset[numbers], side="left")

    def check(self, frame_size: int, blob_size: int, *, own: bool) -> None:
        """Raise FormatError if a frame cannot be in a blob of this size. An `own` blob holds only whole frames."""
        if len(self.digests) != 32 * len(self):
            raise FormatError("the extent index has digests of the wrong length")
        if not 0 < frame_size <= MAX_SIZE:
            raise FormatError(f"the extent index has the impossible frame size {frame_size}")
        origin = self.start - self.skip
        bad = (
            (self.blob_offset < 0)
            | (self.blob_length <= 0)
            | (self.blob_length > blob_size)
            | (self.blob_offset > blob_size - self.blob_length)
            | (self.length <= 0)
            | (self.skip < 0)
            | (self.skip > self.start)
            | (self.frame_length <= 0)
            | (self.frame_length > frame_size)
            | (self.skip > self.frame_length - self.length)
            | (origin // frame_size != (origin + self.frame_length - 1) // frame_size)
        )
        if own:
            bad |= (self.skip != 0) | (self.frame_length != self.length)
        bad[1:] |= ~(self._is_behind() | self._is_same_frame(origin))
        if own:
            bad[1:] |= ~self._is_behind()
        if bad.any():
            at = int(self.start[np.flatnonzero(bad)[0]])
            raise FormatError(f"the extent index has an impossible frame for the range at {at}")

    def _is_behind(self) -> BoolArray:
        """Return whether each frame but the first lies behind the end of the one before it in the blob."""
        behind: BoolArray = self.blob_offset[1:] >= self.blob_offset[:-1] + self.blob_length[:-1]
        return behind

    def _is_same_frame(self, origin: Int64Array) -> BoolArray:
        """Return whether each piece but the first is of the same frame as the one before."""
        digests = self.digests.view(DIGEST)
        same: BoolArray = digests[1:] == digests[:-1]
        for column in (self.blob_offset, self.blob_length, self.frame_length, origin):
            same &= column[1:] == column[:-1]
        return same
