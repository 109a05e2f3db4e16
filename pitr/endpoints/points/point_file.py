# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point as bytes at any offset, for one reader that jumps about in small steps."""

from __future__ import annotations

from collections.abc import Callable

from pitr.endpoints.points.cached_point import CachedPoint
from pitr.system import rate_limit
from pitr.system.closing import Closes
from pitr.system.read_ahead import ReadAhead


class PointFile(Closes):
    """The bytes of a cached point. One thread at a time uses it. Closing it closes the point.

    `on_read` gets the offset and the length of each range that is read, in bytes.
    """

    def __init__(self, point: CachedPoint, on_read: Callable[[int, int], None] | None = None) -> None:
        self._on_read = on_read
        self._point = point
        self._read_ahead = ReadAhead(point.read_ahead)

    @property
    def size(self) -> int:
        return self._point.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`, fewer only at the end of the disk. Raises StoredDamage."""
        end = min(offset + length, self.size)
        if offset < 0 or offset >= end:
            return b""
        if self._on_read is not None:
            self._on_read(offset, end - offset)
        ahead = self._read_ahead.after(offset, end - offset)
        if ahead is not None:
            self._point.ask(*ahead)
        parts: list[bytes | memoryview] = []
        moved = 0
        for count, data in self._point.read(offset, end - offset):
            moved += count if data is not None else 0
            parts.append(bytes(count) if data is None else data)
        rate_limit.spend(moved)
        # Usually there is one piece, and joining would copy it again.
        return b"".join(parts) if len(parts) > 1 else bytes(parts[0])

    def close(self) -> None:
        self._point.close()
