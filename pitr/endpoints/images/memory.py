# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks in memory, for tests and small disks."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.errors import UsageError
from pitr.extents import ExtentMap
from pitr.system.closing import Closes


class MemorySource:
    """A source over `content`. Without `extents`, all of it is data. Raises FormatError on wrong extents."""

    def __init__(
        self,
        content: bytes | bytearray | memoryview,
        extents: ExtentMap | None = None,
        *,
        max_readers: int = 4,
    ) -> None:
        self._content = memoryview(content).cast("B").toreadonly()
        if extents is None:
            extents = ExtentMap.of([(0, self.size, False)] if self.size else [])
        self._extents = extents.checked(self.size, whole=False)
        self._max_readers = max_readers

    @property
    def size(self) -> int:
        return len(self._content)

    @property
    def max_readers(self) -> int:
        return self._max_readers

    def extents(self) -> ExtentMap:
        return self._extents

    def open_reader(self) -> MemoryReader:
        return MemoryReader(self._content)


class MemoryReader(Closes):
    def __init__(self, content: memoryview) -> None:
        self._content = content

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        for offset, length in ranges:
            check_range(offset, length, len(self._content))
            buffer[at : at + length] = self._content[offset : offset + length]
            at += length

    def close(self) -> None:
        pass


class MemorySink:
    """A sink of `size` bytes that first read as zero. `content` holds the bytes of the disk."""

    def __init__(self, size: int, *, max_writers: int = 4) -> None:
        self.content = bytearray(size)
        self._max_writers = max_writers
        self._reads_zero = True

    @classmethod
    def over(cls, content: bytearray, size: int, *, reads_zero: bool) -> MemorySink:
        """Return a sink that writes into `content`. Raises UsageError when its length is not `size`."""
        if len(content) != size:
            raise UsageError(f"{len(content)} bytes do not hold a disk of {size} bytes")
        sink = cls(0)
        sink.content = content
        sink._reads_zero = reads_zero
        return sink

    @property
    def max_writers(self) -> int:
        return self._max_writers

    @property
    def reads_zero(self) -> bool:
        return self._reads_zero

    def open_writer(self) -> MemoryWriter:
        return MemoryWriter(self.content)

    def flush(self) -> None:
        pass

    def abort(self) -> None:
        pass


class MemoryWriter(Closes):
    def __init__(self, content: bytearray) -> None:
        self._content = content

    def write(self, offset: int, data: memoryview) -> None:
        check_range(offset, len(data), len(self._content))
        self._content[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        check_range(offset, length, len(self._content))
        self._content[offset : offset + length] = bytes(length)

    def close(self) -> None:
        pass


def check_range(offset: int, length: int, size: int) -> None:
    """Raise UsageError when a range does not lie inside a disk of `size` bytes."""
    if offset < 0 or length < 0 or offset + length > size:
        raise UsageError(f"{length} bytes at {offset} are outside the disk of {size} bytes")
