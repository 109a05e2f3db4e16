# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point for readers that read at any offset, again and again, through a cache of frames."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from pitr.endpoints.points.frame_cache import FrameCache, FrameKey
from pitr.endpoints.points.point import PointSource, read_frame
from pitr.errors import PitrError
from pitr.extents import ExtentMap
from pitr.repository.blob import Decompressor
from pitr.system.closing import Closes
from pitr.units import human_size

#: The size in bytes of a window. CachedPoint looks up the pieces of a window once and remembers them.
_WINDOW: Final = 1 << 20
#: The number of pieces that CachedPoint remembers, each about 200 bytes.
_MAX_REMEMBERED: Final = 1 << 16
#: Reading further ahead would evict frames that other readers need.
_MOST_AHEAD: Final = 8 << 20

#: A piece of up to this size comes from the cache's folder by itself, without the rest of its frame.
_SMALL: Final = 64 << 10

#: A range of the disk, in bytes: start, end; its frame and the start of that frame, or None where it reads as zero.
_Piece = tuple[int, int, FrameKey | None, int]


class SharedFrames:
    """The most recently used frames of several points, decompressed, by their digests. Any number of threads use it.

    Points of one VM have most frames in common, also in different blobs.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._frames: OrderedDict[bytes, bytes] = OrderedDict()
        self._used = 0

    def get(self, digest: bytes) -> bytes | None:
        """Return the frame with this digest; None if it is not kept."""
        with self._lock:
            data = self._frames.get(digest)
            if data is not None:
                self._frames.move_to_end(digest)
            return data

    def keep(self, digest: bytes, data: bytes) -> None:
        """Keep a frame whose digest was verified."""
        with self._lock:
            if digest in self._frames:
                return
            self._frames[digest] = data
            self._used += len(data)
            while self._used > self._capacity:
                self._used -= len(self._frames.popitem(last=False)[1])


class CachedPoint(Closes):
    """The disk of `point`, read through `cache` by any number of threads. Closing it closes the point.

    It calls `on_damage` once for each frame that it cannot read, also for one that it only reads ahead, with the range
    in words and the error. It takes frames from `shared`, and puts them there, if it is given.
    """

    def __init__(
        self,
        point: PointSource,
        cache: FrameCache,
        on_damage: Callable[[str, PitrError], object] = lambda message, error: None,
        shared: SharedFrames | None = None,
    ) -> None:
        self._shared = shared
        self._point = point
        self._cache = cache
        self._on_damage = on_damage
        self._extents = point.extents()
        self._lock = threading.Lock()
        self._windows: dict[int, list[_Piece]] = {}
        self._remembered = 0
        self._damaged: set[tuple[int, int]] = set()
        self.size = point.size
        #: How many bytes a reader should ask for ahead.
        self.read_ahead = min(_MOST_AHEAD, cache.capacity // 4)

    def extents(self) -> ExtentMap:
        return self._extents

    def read(self, offset: int, length: int) -> Iterator[tuple[int, memoryview | None]]:
        """Yield `[offset, offset + length)` in pieces: the number of bytes, and the bytes, or None where they are zero.

        The range must lie inside the disk. Raises StoredDamage or RepositoryError for a piece that cannot be read.
        """
        for start, end, key, frame_start in self._pieces(offset, offset + length):
            if key is None:
                yield end - start, None
            else:
                part = self._part(key, start - frame_start, end - frame_start)
                if part is None:
                    part = memoryview(self._cache.get(key))[start - frame_start : end - frame_start]
                yield end - start, part

    def is_ready(self, offset: int, length: int) -> bool:
        """Return whether this range can be read without waiting for a frame."""
        return self._cache.has(self._missing(offset, offset + length))

    def ask(self, offset: int, length: int) -> None:
        """Load the part of this range that lies inside the disk ahead of its use."""
        self._cache.ask(self._missing(offset, min(offset + length, self.size)))

    def load(self, layer: int, number: int, decompressor: Decompressor) -> bytes:
        """Return a frame, decompressed, read from its blob. Raises PitrError."""
        stored = self._point.stored(layer)
        frames = stored.frames
        known = self._shared.get(frames.digest(number)) if self._shared is not None else None
        if known is not None and len(known) == int(frames.frame_length[number]):
            return known
        folder = self._cache.folder
        if folder is not None:
            known = folder.whole(frames.digest(number), int(frames.frame_length[number]))
            if known is not None:
                return known
        length = int(frames.blob_length[number])
        try:
            frame = stored.blob.read_at(int(frames.blob_offset[number]), length)
            data = read_frame(stored, number, frame, decompressor)
        except PitrError as error:
            self._report(layer, number, error)
            raise
        self._point.count(1, length)
        if folder is not None:
            folder.add(frames.digest(number), data)
        if self._shared is not None:
            self._shared.keep(frames.digest(number), data)
        return data

    def close(self) -> None:
        self._point.close()

    def _report(self, layer: int, number: int, error: PitrError) -> None:
        with self._lock:
            if (layer, number) in self._damaged:
                return
            self._damaged.add((layer, number))
        frames = self._point.stored(layer).frames
        start, length = frames.origin(number), int(frames.frame_length[number])
        self._on_damage(f"{human_size(length)} at {start}: {error.message}", error)

    def _part(self, key: FrameKey, begin: int, end: int) -> memoryview | None:
        """Return a small part of a frame from the cache's folder, without the rest; None if it must be loaded."""
        folder = self._cache.folder
        if folder is None or end - begin > _SMALL or self._cache.has((key,)):
            return None
        _, layer, number = key
        frames = self._point.stored(layer).frames
        return folder.part(frames.digest(number), int(frames.frame_length[number]), begin, end)

    def _missing(self, start: int, end: int) -> list[FrameKey]:
        """Return the frames that a read of `[start, end)` needs from the cache, which may hold some of them."""
        folder = self._cache.folder
        keys = []
        for piece_start, piece_end, key, _ in self._pieces(start, end):
            if key is None:
                continue
            if folder is not None and piece_end - piece_start <= _SMALL:
                _, layer, number = key
                if folder.has(self._point.stored(layer).frames.digest(number)):
                    continue
            keys.append(key)
        return keys

    def _pieces(self, start: int, end: int) -> list[_Piece]:
        """Return the pieces of `[start, end)`, without gaps."""
        pieces: list[_Piece] = []
        first = start // _WINDOW
        known = self._windows.get(first)
        if known is not None and len(known) == 1 and start < end <= (first + 1) * _WINDOW:
            # Most requests.
            _, _, key, frame_start = known[0]
            return [(start, end, key, frame_start)]
        for window in range(first, (end - 1) // _WINDOW + 1) if start < end else ():
            for piece_start, piece_end, key, frame_start in self._windows.get(window) or self._look_up(
                window
            ):
                if piece_end <= start:
                    continue
                if piece_start >= end:
                    break
                begin, stop = max(piece_start, start), min(piece_end, end)
                if key is None and pieces and pieces[-1][2] is None:
                    begin = pieces.pop()[0]
                pieces.append((begin, stop, key, frame_start))
        return pieces

    def _look_up(self, window: int) -> list[_Piece]:
        start, end = window * _WINDOW, min((window + 1) * _WINDOW, self.size)
        pieces: list[_Piece] = []
        covered = start
        for piece_start, piece_end, layer in self._point.pieces(start, end):
            if piece_start > covered:
                pieces.append((covered, piece_start, None, 0))
            frames = self._point.stored(layer).frames
            number = int(frames.numbers_of(np.array([piece_start]))[0])
            pieces.append((piece_start, piece_end, (self, layer, number), frames.origin(number)))
            covered = piece_end
        if covered < end:
            pieces.append((covered, end, None, 0))
        with self._lock:
            if self._remembered > _MAX_REMEMBERED:
                self._windows.clear()
                self._remembered = 0
            self._windows[window] = pieces
            self._remembered += len(pieces)
        return pieces
