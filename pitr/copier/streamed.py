# SPDX-License-Identifier: GPL-2.0-or-later
"""Streamed sources: read once, front to back, with extents that are known only as they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from pitr.copier.protocols import MAX_ZERO, WINDOW
from pitr.extents import Extent
from pitr.system.closing import Closes


class Passing(NamedTuple):
    """A range of the disk in a stream, with its bytes; None for zeroes."""

    extent: Extent
    data: bytes | None


@runtime_checkable
class StreamedSource(Protocol):
    """A disk that is read once, front to back. Ranges that the stream does not hold are unchanged."""

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""

    @property
    def whole(self) -> bool:
        """Whether the stream holds the whole disk."""

    def passing(self) -> Iterator[Passing]:
        """Yield all ranges, data of at most WINDOW bytes and zeroes of at most MAX_ZERO bytes. Call it once.

        Raises FormatError for a malformed stream. The stream is valid only if the iteration ends without an error.
        """


def cut(extent: Extent, read: Callable[[int], bytes]) -> Iterator[Passing]:
    """Cut an extent into ranges for `passing`, data at the bounds of windows."""
    at, end = extent.start, extent.start + extent.length
    while at < end:
        stop = min(end, at + MAX_ZERO if extent.zero else (at // WINDOW + 1) * WINDOW)
        length = stop - at
        yield Passing(Extent(at, length, extent.zero), None if extent.zero else read(length))
        at = stop


class PassingWriter(Closes):
    """A writer for an ordered sink. `take` returns the written ranges, data in pieces of at most `largest` bytes."""

    def __init__(self, largest: int = WINDOW) -> None:
        self._largest = largest
        self._pieces: list[Passing] = []

    def write(self, offset: int, data: memoryview) -> None:
        for at in range(0, len(data), self._largest):
            part = bytes(data[at : at + self._largest])
            self._pieces.append(Passing(Extent(offset + at, len(part), False), part))

    def zero(self, offset: int, length: int) -> None:
        self._pieces.append(Passing(Extent(offset, length, True), None))

    def take(self) -> Sequence[Passing]:
        """Return the ranges since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def close(self) -> None:
        self._pieces.clear()
