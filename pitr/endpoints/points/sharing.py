# SPDX-License-Identifier: GPL-2.0-or-later
"""Store a disk in full, but use the frames that a sibling's disk has stored at the same place.

A sink between the copier and a new stream of parts. A frame is shared if the disk has the same bytes there, by digest:
nothing of the sibling but its indexes is read, and such a frame is neither compressed nor stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pitr.copier.copy import OrderedWriter
from pitr.copier.protocols import Source
from pitr.extents import Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.blob import FRAME_SIZE, digest_of
from pitr.repository.chain import frames_of, resolve_chain
from pitr.repository.index import DIGEST
from pitr.repository.stream_sink import StoredFrame, StoredPiece, StreamSink
from pitr.system.closing import Closes

#: Lengths of a digest in bytes.
_DIGEST_SIZE = 32


class SharedDisk:
    """The whole frames of a sibling's disk at a point, in the order of the disk. The arrays are in bytes."""

    def __init__(self, backup: Backup, stream: Stream, columns: _Columns) -> None:
        self.backup = backup
        self.stream = stream
        self._columns = columns
        self._end = columns.start + columns.length

    def __len__(self) -> int:
        return len(self._end)

    def inside(self, start: int, end: int) -> range:
        """Return the numbers of the frames that lie in `[start, end)` as a whole."""
        first = int(np.searchsorted(self._columns.start, start, side="left"))
        last = int(np.searchsorted(self._end, end, side="right"))
        return range(first, max(first, last))

    def place(self, number: int) -> tuple[int, int]:
        """Return the start and the end of a frame on the disk."""
        return int(self._columns.start[number]), int(self._end[number])

    def digest(self, number: int) -> bytes:
        """Return the digest of a frame's data."""
        return bytes(self._columns.digest[number].tobytes())

    def frame(self, number: int) -> StoredFrame:
        """Return the place of a frame in the blob that holds it."""
        columns = self._columns
        stream = columns.streams[int(columns.layer[number])]
        return StoredFrame(stream, int(columns.offset[number]), int(columns.stored[number]))

    def equal_frames(self, source: Source, most: int) -> tuple[int, int]:
        """Compare at most `most` frames all over the disk with `source`. Return how many are equal, and how many."""
        count = len(self.inside(0, source.size))
        chosen = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64)) if count else ()
        equal = 0
        reader = source.open_reader()
        try:
            for number in map(int, chosen):
                start, end = self.place(number)
                view = memoryview(bytearray(end - start))
                reader.read_ranges([(start, end - start)], view)
                equal += digest_of(view) == self.digest(number)
        finally:
            reader.close()
        return equal, len(chosen)


class _Columns:
    """Frames by column: the place on the disk, the layer's number, the place in its blob, and the digest."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.start = self.length = self.layer = self.offset = self.stored = np.empty(0, np.int64)
        self.digest = np.empty(0, DIGEST)

    def add(self, number: int, stream: Stream, columns: Sequence[Int64Array], digests: np.ndarray) -> None:
        """Add frames of one layer: columns start, length, offset and stored length."""
        self.streams[number] = stream
        start, length, offset, stored = columns
        self.layer = np.concatenate([self.layer, np.full(len(start), number, np.int64)])
        self.start = np.concatenate([self.start, start])
        self.length = np.concatenate([self.length, length])
        self.offset = np.concatenate([self.offset, offset])
        self.stored = np.concatenate([self.stored, stored])
        self.digest = np.concatenate([self.digest, digests])

    def sort(self) -> None:
        """Bring the frames of all layers into the order of the disk."""
        order = np.argsort(self.start, kind="stable")
        for name in ("start", "length", "layer", "offset", "stored", "digest"):
            setattr(self, name, getattr(self, name)[order])


def open_shared(repository: Repository, backup: Backup, stream: Stream) -> SharedDisk:
    """Return the frames of the disk of `stream` that a new stream can use. Raises StoredDamage.

    These are whole frames on the usual grid. A blob that is stored externally is no part.
    """
    resolved = resolve_chain(repository, backup, stream, with_frames=True)
    columns = _Columns()
    for layer in np.unique(resolved.map.layer[~resolved.map.zero]).tolist():
        source = resolved.sources[layer]
        if source.stream.external is not None:
            continue
        kept = resolved.frames.get(layer)
        frames = kept if kept is not None else frames_of(repository, source)
        rows = np.flatnonzero((resolved.map.layer == layer) & ~resolved.map.zero)
        start, length = resolved.map.start[rows], resolved.map.length[rows]
        numbers = frames.numbers_of(start)
        whole = (frames.start[numbers] - frames.skip[numbers] == start) & (
            frames.frame_length[numbers] == length
        )
        whole &= start // FRAME_SIZE == (start + length - 1) // FRAME_SIZE
        numbers, start, length = numbers[whole], start[whole], length[whole]
        places = (start, length, frames.blob_offset[numbers], frames.blob_length[numbers])
        columns.add(layer, source.stream, places, frames.digests.view(DIGEST)[numbers])
    columns.sort()
    return SharedDisk(backup, stream, columns)


class SharingSink:
    """Passes on to a new stream of parts the frames that a sibling's disk does not hold at the same place."""

    reads_zero = False

    def __init__(self, sink: StreamSink, disk: SharedDisk) -> None:
        self._sink = sink
        self._disk = disk

    @property
    def max_writers(self) -> int:
        return self._sink.max_writers

    def open_writer(self) -> SharingWriter:
        return SharingWriter(self._sink.open_writer(), self._disk)

    def append(self, pieces: Sequence[StoredPiece]) -> None:
        """Add the next pieces of the disk to the stream; one caller at a time."""
        self._sink.append(pieces)

    def flush(self) -> None:
        self._sink.flush()

    def abort(self) -> None:
        self._sink.abort()


class SharingWriter(Closes):
    """One worker's access: compares frames with the sibling's disk and passes on those that differ."""

    def __init__(self, writer: OrderedWriter, disk: SharedDisk) -> None:
        self._writer = writer
        self._disk = disk
        self._pieces: list[StoredPiece] = []

    def write(self, offset: int, data: memoryview) -> None:
        at, end = offset, offset + len(data)
        for number in self._disk.inside(offset, end):
            start, stop = self._disk.place(number)
            digest = self._disk.digest(number)
            if digest_of(data[start - offset : stop - offset]) != digest:
                continue
            if at < start:
                self._writer.write(at, data[at - offset : start - offset])
            self._pieces += self._writer.take()
            self._pieces.append(
                StoredPiece(start, stop - start, digest=digest, used=self._disk.frame(number))
            )
            at = stop
        if at < end:
            self._writer.write(at, data[at - offset :])

    def zero(self, offset: int, length: int) -> None:
        self._writer.zero(offset, length)

    def take(self) -> Sequence[StoredPiece]:
        """Return the pieces of the stream since the last call."""
        pieces, self._pieces = [*self._pieces, *self._writer.take()], []
        return pieces

    def close(self) -> None:
        self._writer.close()
