# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume (partition, logical volume or whole disk) as a file that libraries can seek in and read."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ReadAt = Callable[[int, int], bytes]
"""Returns `length` bytes at `offset` of a disk, fewer only at its end."""

#: No structure of a file system is larger. Only a damaged one asks for more.
_MOST_AT_ONCE = 64 << 20


class DiskRange(NamedTuple):
    """`length` bytes of a volume, stored side by side at `offset` of a disk. `disk` is the id of that disk."""

    length: int
    read: ReadAt
    offset: int
    disk: str = ""


class VolumeFile(io.RawIOBase):
    """The spans one after the other. Closing the file closes nothing else."""

    def __init__(self, spans: Sequence[DiskRange]) -> None:
        super().__init__()
        self._spans = list(spans)
        self._starts: list[int] = []
        self.size = 0
        for span in self._spans:
            self._starts.append(self.size)
            self.size += span.length
        self._at = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer only at the end. Raises ValueError when `length` exceeds all structures."""
        if length > _MOST_AT_ONCE:
            raise ValueError(f"a structure of {length} bytes")
        parts: list[bytes] = []
        for span in self.spans(offset, length):
            parts.append(span.read(span.offset, span.length))
            if len(parts[-1]) < span.length:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def spans(self, offset: int, length: int) -> list[DiskRange]:
        """Return the segments of a range, as far as it lies inside the volume."""
        segments: list[DiskRange] = []
        end = min(offset + length, self.size)
        while 0 <= offset < end:
            number = bisect_right(self._starts, offset) - 1
            span, inside = self._spans[number], offset - self._starts[number]
            count = min(end - offset, span.length - inside)
            segments.append(DiskRange(count, span.read, span.offset + inside, span.disk))
            offset += count
        return segments

    def read(self, size: int | None = -1) -> bytes:
        count = self.size - self._at if size is None or size < 0 else size
        data = self.read_at(self._at, max(0, min(count, self.size - self._at)))
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("an offset before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
