# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare a disk that is read whole with a stored point, and store only what differs.

A sink between the copier and a new stream: whatever the stored point holds already is neither compressed nor stored.
A whole frame is compared by its digest. Parts of frames, and frames with another digest, are compared byte by byte
with the stored data, in blocks of 64 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from pitr.copier.copy import OrderedWriter
from pitr.copier.wrapped import WrappedSink
from pitr.endpoints.points.cold import cold_streams
from pitr.endpoints.points.point import PointReader, PointSource, StoredStream
from pitr.extents import Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.blob import digest_of
from pitr.repository.chain import ResolvedChain, frames_of, resolve_chain
from pitr.repository.index import Frames
from pitr.repository.stream_sink import ZERO_BLOCK, StoredPiece, StreamSink, cut
from pitr.system.closing import Closes


class Piece(NamedTuple):
    """A range of the stored point, in bytes. `digest` is the frame's if the range is a whole frame.

    `readable`: the stored data of the range is in the repository. `row` is its row in the point's map, -1 beyond it.
    """

    start: int
    end: int
    zero: bool
    digest: bytes | None
    readable: bool
    row: int


class PlaceInFrame(NamedTuple):
    """The frame that holds a piece: the stream with its blob, its place there, and its data's place on the disk."""

    stream: Stream
    offset: int
    stored: int
    origin: int
    length: int
    digest: bytes


class ComparedPoint(Closes):
    """A stored point to compare with. Closing it closes the blobs."""

    def __init__(
        self, resolved: ResolvedChain, frames: dict[int, Frames], readable: dict[int, StoredStream]
    ) -> None:
        self._map = resolved.map
        self._sources = resolved.sources
        self._end = self._map.start + self._map.length
        self._frames = frames
        self._readable = readable
        self._source = PointSource(self._map, readable)
        self._number = np.full(len(self._map), -1, np.int64)
        self._whole = np.zeros(len(self._map), np.bool_)
        for layer, of_layer in frames.items():
            rows = np.flatnonzero((self._map.layer == layer) & ~self._map.zero)
            starts = self._map.start[rows]
            numbers = of_layer.numbers_of(starts)
            self._number[rows] = numbers
            self._whole[rows] = (of_layer.start[numbers] - of_layer.skip[numbers] == starts) & (
                of_layer.frame_length[numbers] == self._map.length[rows]
            )

    def pieces(self, start: int, end: int) -> list[Piece]:
        """Return the pieces in `[start, end)`, cut at its bounds. What lies beyond the point's disk is zero."""
        first = int(np.searchsorted(self._end, start, side="right"))
        last = int(np.searchsorted(self._map.start, end, side="left"))
        pieces = [self._piece(row, start, end) for row in range(first, last)]
        beyond = max(start, self._map.size)
        if beyond < end:
            pieces.append(Piece(beyond, end, True, None, True, -1))
        return pieces

    def _piece(self, row: int, start: int, end: int) -> Piece:
        piece_start, piece_end = int(self._map.start[row]), int(self._end[row])
        inside = start <= piece_start and piece_end <= end
        piece_start, piece_end = max(piece_start, start), min(piece_end, end)
        if self._map.zero[row]:
            return Piece(piece_start, piece_end, True, None, True, row)
        layer = int(self._map.layer[row])
        digest = self._frames[layer].digest(int(self._number[row])) if inside and self._whole[row] else None
        return Piece(piece_start, piece_end, False, digest, layer in self._readable, row)

    def whole_frames(self, size: int) -> Int64Array:
        """Return the rows that are whole frames in the first `size` bytes of the disk."""
        rows: Int64Array = np.flatnonzero(self._whole & (self._end <= size))
        return rows

    def bounds(self, row: int) -> tuple[int, int]:
        """Return the start and the end of a row of the map on the disk."""
        return int(self._map.start[row]), int(self._end[row])

    def frame(self, row: int) -> PlaceInFrame:
        """Return the frame that holds a row with data."""
        layer, number = int(self._map.layer[row]), int(self._number[row])
        frames = self._frames[layer]
        return PlaceInFrame(
            self._sources[layer].stream,
            int(frames.blob_offset[number]),
            int(frames.blob_length[number]),
            frames.origin(number),
            int(frames.frame_length[number]),
            frames.digest(number),
        )

    def open_reader(self) -> PointReader:
        """Return a reader of the readable pieces."""
        return self._source.open_reader()

    def close(self) -> None:
        self._source.close()


def open_compared(repository: Repository, backup: Backup, stream: Stream) -> ComparedPoint:
    """Open the disk of `stream` at the point of `backup` for a comparison. The caller closes it.

    Data that is stored externally or in a cold storage class has only its digests. Raises StoredDamage.
    """
    resolved = resolve_chain(repository, backup, stream, with_frames=True)
    needed = set(resolved.map.layers_of_data())
    cold = {used.stream_id for used in cold_streams(repository, resolved)}
    all_frames: dict[int, Frames] = {}
    readable: dict[int, StoredStream] = {}
    with ExitStack() as stack:
        for layer, source in enumerate(resolved.sources):
            if layer not in needed:
                continue
            kept = resolved.frames.get(layer)
            frames = all_frames[layer] = kept if kept is not None else frames_of(repository, source)
            if source.stream.stream_id not in cold and repository.is_here(source.stream):
                blob = stack.enter_context(repository.open_blob(source.backup, source.stream))
                readable[layer] = StoredStream(source.backup, source.stream, frames, blob)
        stack.pop_all()
    return ComparedPoint(resolved, all_frames, readable)


class ComparingSink(WrappedSink[StreamSink]):
    """Passes on to a new incremental stream what differs from the stored point that the stream is based on.

    The caller closes both. The writers raise StoredDamage when a stored frame that they need is damaged.
    """

    def __init__(self, sink: StreamSink, point: ComparedPoint) -> None:
        super().__init__(sink)
        self._point = point

    def open_writer(self) -> ComparingWriter:
        return ComparingWriter(self._sink.open_writer(), self._point)


class ComparingWriter(Closes):
    """One worker's access: compares ranges with the stored point and passes on those that differ."""

    def __init__(self, writer: OrderedWriter, point: ComparedPoint) -> None:
        self._writer = writer
        self._point = point
        self._reader = point.open_reader()

    def write(self, offset: int, data: memoryview) -> None:
        changed: list[tuple[int, int]] = []
        unsure: list[Piece] = []
        for piece in self._point.pieces(offset, offset + len(data)):
            part = data[piece.start - offset : piece.end - offset]
            if piece.zero:
                runs = cut(piece.start, part, max(len(part), ZERO_BLOCK))
                changed += [(start, start + length) for start, length, zero in runs if not zero]
            elif piece.digest is not None and digest_of(part) == piece.digest:
                continue
            elif piece.readable:
                unsure.append(piece)
            else:
                changed.append((piece.start, piece.end))
        if unsure:
            changed += self._differing(unsure, offset, data)
        for start, end in _joined(changed):
            self._writer.write(start, data[start - offset : end - offset])

    def zero(self, offset: int, length: int) -> None:
        changed: list[tuple[int, int]] = []
        for piece in self._point.pieces(offset, offset + length):
            if not piece.zero and not (self._is_short(piece) and not self._stored([piece]).any()):
                changed.append((piece.start, piece.end))
        for start, end in _joined(changed):
            self._writer.zero(start, end - start)

    def take(self) -> Sequence[StoredPiece]:
        """Return the pieces of the stream since the last call."""
        pieces: Sequence[StoredPiece] = self._writer.take()
        return pieces

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _is_short(self, piece: Piece) -> bool:
        """Return whether stored data can hold zeroes here: pitr does not look for them in less than a block."""
        return piece.readable and piece.end - piece.start < ZERO_BLOCK

    def _differing(self, pieces: Sequence[Piece], offset: int, data: memoryview) -> list[tuple[int, int]]:
        """Return the blocks of the pieces in which `data`, from `offset` on, differs from the stored data."""
        blocks = compared_blocks(pieces, self._stored(pieces), offset, data)
        return [(start, end) for _, start, end, same in blocks if not same]

    def _stored(self, pieces: Sequence[Piece]) -> Any:
        """Return the stored bytes of the pieces as an array. Raises StoredDamage."""
        return stored_bytes(self._reader, pieces)


def stored_bytes(reader: PointReader, pieces: Sequence[Piece]) -> Any:
    """Return the stored bytes of pieces, one after the other, as an array. Raises StoredDamage."""
    buffer = bytearray(sum(piece.end - piece.start for piece in pieces))
    with memoryview(buffer) as view:
        reader.read_ranges([(piece.start, piece.end - piece.start) for piece in pieces], view)
    return np.frombuffer(buffer, np.uint8)


def compared_blocks(
    pieces: Sequence[Piece], stored: Any, offset: int, data: memoryview
) -> Iterator[tuple[Piece, int, int, bool]]:
    """Yield the blocks of pieces (start and end on the disk), and whether `data` is `stored` there.

    `data` begins at `offset` of the disk; `stored` has the bytes of the pieces one after the other.
    """
    given = np.frombuffer(data, np.uint8)
    at = 0
    for piece in pieces:
        start = piece.start
        while start < piece.end:
            end = min(piece.end, (start // ZERO_BLOCK + 1) * ZERO_BLOCK)
            block = stored[at : at + end - start]
            yield piece, start, end, np.array_equal(block, given[start - offset : end - offset])
            at += end - start
            start = end


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (start, end) ranges in the order of the disk, with adjacent ones joined."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
