# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point as a source. It reads the frames of a resolved chain from their blobs.

The digest of each frame is compared before its bytes are returned. One call of `read_ranges` reads and decompresses a
frame once, however many pieces of it you ask for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from blake3 import blake3

from pitr.endpoints.points.cold import check_warm
from pitr.endpoints.points.reads_ahead import ReadsAhead, ReadThreads
from pitr.errors import FormatError
from pitr.extents import ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.blob import Decompressor, digest_of
from pitr.repository.chain import KnownLayers, ResolvedChain, frames_of, resolve_chain
from pitr.repository.damage import of_stream
from pitr.repository.frame_places import FramePlace, places_of
from pitr.repository.index import Frames
from pitr.repository.resolver import PointMap
from pitr.repository.store import StoredFile
from pitr.repository.store.base import gap_of, is_far
from pitr.system.closing import Closes

#: Below this many bytes, a copy by numpy takes longer than one by a memoryview.
_LARGE = 1 << 15


def open_point(
    repository: Repository, backup: Backup, stream: Stream, known: KnownLayers | None = None
) -> PointSource:
    """Open the disk of `stream` as it was at the point of `backup`. The caller closes it.

    `known` goes with several points that are opened one after the other. Raises StoredDamage when the chain is damaged.
    """
    return open_resolved(repository, resolve_chain(repository, backup, stream, with_frames=True, known=known))


def open_resolved(repository: Repository, resolved: ResolvedChain) -> PointSource:
    """Open the disk of a resolved chain. The caller closes it. Raises StoredDamage."""
    check_warm(repository, resolved)
    needed = set(resolved.map.layers_of_data())
    with ExitStack() as stack:
        chain: dict[int, StoredStream] = {}
        for layer, source in enumerate(resolved.sources):
            if layer not in needed:
                continue
            blob = stack.enter_context(repository.open_blob(source.backup, source.stream))
            frames = resolved.frames.get(layer)
            if frames is None:
                frames = frames_of(repository, source)
            chain[layer] = StoredStream(source.backup, source.stream, frames, blob)
        stack.pop_all()
        return PointSource(resolved.map, chain)


@dataclass(frozen=True, slots=True)
class Needed:
    """The cost of reading a whole point: the number of frames, their stored bytes, and the number of streams."""

    frames: int
    stored_bytes: int
    streams: int


@dataclass(frozen=True, slots=True)
class StoredStream:
    """One opened stream of the chain: its frames and its blob."""

    backup: Backup
    stream: Stream
    frames: Frames
    blob: StoredFile


class PointSource(Closes):
    """The disk of a point. `chain` holds the opened stream of each layer that has live data in the map.

    Closing it closes the blobs. `frames_read` and `bytes_read` count what the readers have read.
    """

    max_readers = 1 << 10

    def __init__(self, point_map: PointMap, chain: Mapping[int, StoredStream]) -> None:
        self._map = point_map
        self._chain = chain
        self._end = point_map.start + point_map.length
        self._lock = threading.Lock()
        self._threads = ReadThreads() if any(is_far(stored.blob) for stored in chain.values()) else None
        self.frames_read = 0
        self.bytes_read = 0

    @property
    def size(self) -> int:
        return self._map.size

    def extents(self) -> ExtentMap:
        return self._map.extents()

    def open_reader(self) -> PointReader:
        return PointReader(self, None if self._threads is None else ReadsAhead(self._threads))

    def close(self) -> None:
        if self._threads is not None:
            self._threads.close()
        for stored in self._chain.values():
            stored.blob.close()

    def pieces(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """Return the data pieces in `[start, end)`, cut at its bounds: (start, end, layer)."""
        first = int(self._end.searchsorted(start, side="right"))
        last = int(self._map.start.searchsorted(end, side="left"))
        window = slice(first, last)
        return [
            (max(piece_start, start), min(piece_end, end), layer)
            for piece_start, piece_end, layer, zero in zip(
                self._map.start[window].tolist(),
                self._end[window].tolist(),
                self._map.layer[window].tolist(),
                self._map.zero[window].tolist(),
                strict=True,
            )
            if not zero
        ]

    def needed(self) -> Needed:
        """Return the cost of reading all of it, each frame once."""
        frames = stored_bytes = 0
        for layer, stored in self._chain.items():
            starts = self._map.start[(self._map.layer == layer) & ~self._map.zero]
            numbers = np.unique(stored.frames.numbers_of(starts))
            frames += len(numbers)
            stored_bytes += int(stored.frames.blob_length[numbers].sum())
        return Needed(frames, stored_bytes, len(self._chain))

    def stored(self, layer: int) -> StoredStream:
        return self._chain[layer]

    def count(self, frames: int, stored_bytes: int) -> None:
        with self._lock:
            self.frames_read += frames
            self.bytes_read += stored_bytes


class PointReader(Closes):
    """One worker's reader of a point. `ahead` is for blobs whose reads are requests."""

    def __init__(self, source: PointSource, ahead: ReadsAhead | None = None) -> None:
        self._source = source
        self._ahead = ahead
        self._decompressor = Decompressor()

    @property
    def reads_ahead(self) -> bool:
        return self._ahead is not None

    def start(self, ranges: Sequence[tuple[int, int]]) -> None:
        if self._ahead is not None:
            for layer, pieces in self._wanted(ranges).items():
                self._start(self._ahead, self._source.stored(layer), pieces)

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        self.start(ranges)
        for layer, pieces in self._wanted(ranges).items():
            self._read_layer(self._source.stored(layer), pieces, buffer)

    def _wanted(self, ranges: Sequence[tuple[int, int]]) -> dict[int, list[tuple[int, int, int]]]:
        """Return for each layer: start of the piece, end of the piece, offset in the buffer."""
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        at = 0
        for offset, length in ranges:
            covered = offset
            for start, end, layer in self._source.pieces(offset, offset + length):
                if start != covered:
                    break
                wanted.setdefault(layer, []).append((start, end, at + start - offset))
                covered = end
            if covered != offset + length:
                raise ValueError(f"the point has no data at {covered}: ask for data extents only")
            at += length
        return wanted

    def _start(self, ahead: ReadsAhead, stored: StoredStream, pieces: Sequence[tuple[int, int, int]]) -> None:
        """Begin to read what `_read_layer` will read."""
        for run in _runs(places_of(stored.frames, pieces), gap_of(stored.blob)):
            ahead.start([(stored.blob, run[0].offset, run[-1].end - run[0].offset)])

    def _read_layer(
        self, stored: StoredStream, pieces: Sequence[tuple[int, int, int]], buffer: memoryview
    ) -> None:
        """Copy the pieces of one stream into the buffer, after the digest of each frame is verified.

        The loop calls little, because it holds Python's lock for each frame of a restore.
        """
        places = places_of(stored.frames, pieces)
        target = np.frombuffer(buffer, np.uint8)
        read = 0
        for run in _runs(places, gap_of(stored.blob)):
            begin, size = run[0].offset, run[-1].end - run[0].offset
            stored_bytes = memoryview(
                stored.blob.read_at(begin, size)
                if self._ahead is None
                else self._ahead.read((stored.blob, begin, size))
            )
            for number, offset, end, origin, length, digest, inside in run:
                read += end - offset
                frame = stored_bytes[offset - begin : end - begin]
                data = self._data_of(stored, number, frame, length, digest)
                for piece_start, piece_end, at in inside:
                    count = piece_end - piece_start
                    # A large copy by numpy lets other threads run, and one by a memoryview does not.
                    if count < _LARGE:
                        buffer[at : at + count] = data[piece_start - origin : piece_end - origin]
                    else:
                        part = np.frombuffer(data, np.uint8, count, piece_start - origin)
                        np.copyto(target[at : at + count], part)
        self._source.count(len(places), read)

    def _data_of(
        self, stored: StoredStream, number: int, frame: memoryview, length: int, digest: bytes
    ) -> bytes:
        with suppress(FormatError):
            data = self._decompressor.decompress(frame, length)
            if blake3(data).digest() == digest:
                return data
        # This fails, too, and tells what is damaged.
        return read_frame(stored, number, frame, self._decompressor)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()


def read_frame(
    stored: StoredStream, number: int, frame: bytes | memoryview, decompressor: Decompressor
) -> bytes:
    """Decompress a frame and verify its digest. Raises StoredDamage that names its range of the disk."""
    return verified_frame(
        stored.backup,
        stored.stream,
        stored.frames,
        number,
        lambda length: decompressor.decompress(frame, length),
    )


def verified_frame(
    backup: Backup, stream: Stream, frames: Frames, number: int, decompress: Callable[[int], bytes]
) -> bytes:
    """Return the data of a frame after its digest is verified. Raises StoredDamage that names its range of the disk.

    `decompress` gets the length of the data in bytes.
    """
    start, length = frames.origin(number), int(frames.frame_length[number])
    try:
        data = decompress(length)
        if digest_of(data) != frames.digest(number):
            raise FormatError("the digest of its data does not match")
    except FormatError as error:
        raise of_stream(backup.backup_id, stream, "corrupt", "frame", error.message, start, length) from None
    return data


def _runs(places: Sequence[FramePlace], gap: int) -> list[list[FramePlace]]:
    """Group frames that lie side by side in the blob, at most `gap` bytes apart."""
    runs = [[places[0]]]
    for before, place in pairwise(places):
        if place.offset - before.end <= gap:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
