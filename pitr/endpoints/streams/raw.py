# SPDX-License-Identifier: GPL-2.0-or-later
"""A range of a disk as its bytes, front to back, for an HTTP range request or a pipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pitr.copier.protocols import Source
from pitr.copier.streamed import Passing, PassingWriter
from pitr.copier.wrapped import WrappedSource
from pitr.endpoints.streams.one_way import OneWaySink
from pitr.errors import FormatError
from pitr.extents import ExtentMap

_ZEROES = bytes(1 << 20)


class RawStreamSink(OneWaySink):
    """A sink that writes the bytes of `[start, end)` of a disk, zeroes included, in the order of the disk.

    Its source must hold exactly this range (PartOfSource). `flush` raises FormatError when bytes are missing, because
    the bytes do not show where the range ends.
    """

    def __init__(self, write: Callable[[bytes], object], start: int, end: int) -> None:
        self._write = write
        self._at = start
        self._end = end

    def open_writer(self) -> PassingWriter:
        return PassingWriter()

    def append(self, pieces: Sequence[Passing]) -> None:
        """Write the next pieces of the range. One caller at a time."""
        for extent, data in pieces:
            if extent.start != self._at or extent.start + extent.length > self._end:
                raise FormatError(
                    f"the extent at {extent.start} does not follow the one that ends at {self._at}"
                )
            if data is not None:
                self._write(data)
            else:
                for at in range(0, extent.length, len(_ZEROES)):
                    self._write(_ZEROES[: extent.length - at])
            self._at += extent.length

    def flush(self) -> None:
        if self._at != self._end:
            raise FormatError(f"the range ends at {self._at} instead of {self._end}")


class PartOfSource(WrappedSource[Source]):
    """The range `[start, end)` of another source, at the same offsets. The caller closes the other source."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        super().__init__(source)
        self._start = start
        self._end = end

    def extents(self) -> ExtentMap:
        return self._source.extents().between(self._start, self._end)
