# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point in time as bytes at any offset, for readers that jump about in small steps.

Frames are read whole, each proven by its digest, and the last used ones are kept.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from pitr.blob import Decompressor
from pitr.endpoint.closing import Closes
from pitr.endpoint.point import PointSource, read_frame
from pitr.units import MIB

#: Decompressed frames that are kept, in bytes.
CACHE_BYTES = 64 * MIB


class PointFile(Closes):
    """The bytes of an opened point. Used by one thread at a time. Closing it closes the point."""

    def __init__(self, source: PointSource, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._source = source
        self._decompressor = Decompressor()
        self._frames: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._cached = 0
        self._limit = cache_bytes

    @property
    def size(self) -> int:
        return self._source.size

    def read_at(self, offset: int, length: int) -> bytes:
        """The `length` bytes at `offset`, fewer only at the end of the disk. Raises StoredDamage."""
        end = min(offset + length, self.size)
        if offset < 0 or offset >= end:
            return b""
        pieces = self._source.pieces(offset, end)
        if len(pieces) == 1 and pieces[0][:2] == (offset, end):
            return self._piece(*pieces[0])
        data = bytearray(end - offset)
        for start, piece_end, layer in pieces:
            data[start - offset : piece_end - offset] = self._piece(start, piece_end, layer)
        return bytes(data)

    def _piece(self, start: int, end: int, layer: int) -> bytes:
        frames = self._source.stored(layer).frames
        number = int(np.searchsorted(frames.start, start, side="right")) - 1
        frame_start = int(frames.start[number])
        return self._frame(layer, number)[start - frame_start : end - frame_start]

    def _frame(self, layer: int, number: int) -> bytes:
        key = (layer, number)
        found = self._frames.get(key)
        if found is not None:
            self._frames.move_to_end(key)
            return found
        stored = self._source.stored(layer)
        length = int(stored.frames.blob_length[number])
        frame = stored.blob.read_at(int(stored.frames.blob_offset[number]), length)
        data = read_frame(stored, number, frame, self._decompressor)
        self._source.count(1, length)
        self._frames[key] = data
        self._cached += len(data)
        while self._cached > self._limit and len(self._frames) > 1:
            self._cached -= len(self._frames.popitem(last=False)[1])
        return data

    def close(self) -> None:
        self._frames.clear()
        self._cached = 0
        self._source.close()
