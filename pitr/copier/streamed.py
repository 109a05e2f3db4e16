# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that come as a stream: read once, front to back, their extents known only when they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from pitr.copier.protocols import MAX_ZERO, WINDOW
from pitr.extents import Extent
from pitr.system.closing import Closes


class Passing(NamedTuple):
    """A range of the disk that passes: its bytes, or None for zeroes."""

    extent: Extent
    data: bytes | None


@runtime_checkable
class StreamedSource(Protocol):
    """A disk that is read once, front to back. Ranges that do not pass are unchanged."""

    @property
    def size(self) -> int:
        """Size of the disk in bytes."""

    @property
    def whole(self) -> bool:
        """Whether all of the disk passes."""

    def passing(self) -> Iterator[Passing]:
        """All ranges, none longer than the copy engine's window or zero request. Called once.

        Raises FormatError where the stream is not what it should be; nothing is known to be whole before the
        iteration has ended.
        """


def cut(extent: Extent, read: Callable[[int], bytes]) -> Iterator[Passing]:
    """Cut an extent into what may pass at once, data at the windows of the copy engine."""
    at, end = extent.start, extent.start + extent.length
    while at < end:
        stop = min(end, at + MAX_ZERO if extent.zero else (at // WINDOW + 1) * WINDOW)
        length = stop - at
        yield Passing(Extent(at, length, extent.zero), None if extent.zero else read(length))
        at = stop


class PassingWriter(Closes):
    """One worker's way into a sink that takes ranges in the order of the disk; `take` hands over what was written.

    Data is cut into pieces of at most `largest` bytes.
    """

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
        pieces, self._pieces = self._pieces, []
        return pieces

    def close(self) -> None:
        self._pieces.clear()
