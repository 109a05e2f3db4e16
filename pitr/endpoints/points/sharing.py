# SPDX-License-Identifier: GPL-2.0-or-later
"""Store a disk in full, but use the frames that a sibling's disk has stored at the same place.

A sink between the copier and a new stream of parts: what the sibling's disk holds is neither compressed nor stored. A
whole frame is compared by its digest. Of a frame that differs, or is live only in part, its equal blocks of 64 KiB are
used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from pitr.copier.copy import OrderedWriter
from pitr.copier.protocols import Source
from pitr.copier.wrapped import WrappedSink
from pitr.endpoints.points.comparing import (
    ComparedPoint,
    Piece,
    compared_blocks,
    open_compared,
    stored_bytes,
)
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.blob import FRAME_SIZE, digest_of
from pitr.repository.stream_sink import ZERO_BLOCK, StoredFrame, StoredPiece, StreamSink
from pitr.system.closing import Closes


class SharedDisk(Closes):
    """The disk of a sibling at the point of `backup`. Closing it closes the blobs."""

    def __init__(self, backup: Backup, stream: Stream, point: ComparedPoint) -> None:
        self.backup = backup
        self.stream = stream
        self.point = point

    def equal_frames(self, source: Source, most: int) -> tuple[int, int]:
        """Compare at most `most` frames all over the disk with `source`. Return how many are equal, and how many."""
        rows = self.point.whole_frames(source.size)
        count = min(most, len(rows))
        chosen = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)] if count else rows
        equal = 0
        reader = source.open_reader()
        try:
            for row in chosen.tolist():
                start, end = self.point.bounds(row)
                view = memoryview(bytearray(end - start))
                reader.read_ranges([(start, end - start)], view)
                equal += digest_of(view) == self.point.frame(row).digest
        finally:
            reader.close()
        return equal, count

    def used(self, row: int, start: int, end: int) -> StoredPiece | None:
        """Return a range in a row of the disk as a piece of the frame that holds it; None if it cannot be used.

        A blob that is stored externally is no part, and a frame must fit the grid of new streams.
        """
        frame = self.point.frame(row)
        last = frame.origin + frame.length - 1
        if frame.stream.external is not None or frame.origin // FRAME_SIZE != last // FRAME_SIZE:
            return None
        used = StoredFrame(frame.stream, frame.offset, frame.stored, frame.length, start - frame.origin)
        return StoredPiece(start, end - start, digest=frame.digest, used=used)

    def close(self) -> None:
        self.point.close()


def open_shared(repository: Repository, backup: Backup, stream: Stream) -> SharedDisk:
    """Open the disk of `stream` at the point of `backup`. The caller closes it. Raises StoredDamage."""
    return SharedDisk(backup, stream, open_compared(repository, backup, stream))


def sharing(sink: StreamSink, disks: Sequence[SharedDisk]) -> StreamSink | SharingSink:
    """Return a sink that passes on to `sink` what none of the disks holds. The first disk is asked first."""
    before: StreamSink | SharingSink = sink
    for disk in reversed(disks):
        before = SharingSink(before, disk)
    return before


class SharingSink(WrappedSink["StreamSink | SharingSink"]):
    """Passes on to a new stream of parts what a sibling's disk does not hold at the same place.

    The caller closes both. The writers raise StoredDamage when a stored frame that they compare is damaged.
    """

    def __init__(self, sink: StreamSink | SharingSink, disk: SharedDisk) -> None:
        super().__init__(sink)
        self._disk = disk

    def open_writer(self) -> SharingWriter:
        return SharingWriter(self._sink.open_writer(), self._disk)


class SharingWriter(Closes):
    """One worker's access: compares ranges with the sibling's disk and passes on those that differ."""

    def __init__(self, writer: OrderedWriter, disk: SharedDisk) -> None:
        self._writer = writer
        self._disk = disk
        self._reader = disk.point.open_reader()
        self._pieces: list[StoredPiece] = []

    def write(self, offset: int, data: memoryview) -> None:
        at = offset
        for shared in self._shared(offset, data):
            if at < shared.start:
                self._writer.write(at, data[at - offset : shared.start - offset])
            self._pieces += self._writer.take()
            self._pieces.append(shared)
            at = shared.start + shared.length
        if at < offset + len(data):
            self._writer.write(at, data[at - offset :])

    def _shared(self, offset: int, data: memoryview) -> list[StoredPiece]:
        """Return what the sibling's disk holds of `data`, in the order of the disk."""
        found: list[StoredPiece | None] = []
        unsure: list[Piece] = []
        for piece in self._disk.point.pieces(offset, offset + len(data)):
            if piece.zero:
                continue
            part = data[piece.start - offset : piece.end - offset]
            if piece.digest is not None and digest_of(part) == piece.digest:
                found.append(self._disk.used(piece.row, piece.start, piece.end))
            elif piece.readable and piece.end - piece.start >= ZERO_BLOCK:
                unsure.append(piece)
        if unsure:
            found += self._equal_blocks(unsure, offset, data)
        return sorted((piece for piece in found if piece is not None), key=lambda piece: piece.start)

    def _equal_blocks(
        self, pieces: Sequence[Piece], offset: int, data: memoryview
    ) -> Iterator[StoredPiece | None]:
        """Yield the runs of blocks of the pieces in which `data`, from `offset` on, is as stored."""
        blocks = compared_blocks(pieces, stored_bytes(self._reader, pieces), offset, data)
        for (row, same), run in groupby(blocks, key=lambda block: (block[0].row, block[3])):
            if same:
                bounds = [(start, end) for _, start, end, _ in run]
                yield self._disk.used(row, bounds[0][0], bounds[-1][1])

    def zero(self, offset: int, length: int) -> None:
        self._writer.zero(offset, length)

    def take(self) -> Sequence[StoredPiece]:
        """Return the pieces of the stream since the last call."""
        pieces, self._pieces = [*self._pieces, *self._writer.take()], []
        return pieces

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
