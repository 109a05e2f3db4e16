# SPDX-License-Identifier: GPL-2.0-or-later
"""The interfaces of sources and sinks.

The caller opens a source or sink once. Each worker thread opens its own reader or writer, which only that thread
uses. Closing a reader or writer closes only its own connection. All offsets and lengths are bytes. Failures are
raised as the types of pitr.errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from pitr.extents import ExtentMap

#: Windows begin and end at multiples of this many bytes of the disk. Large windows make the cost of a request small
#: beside its data; small ones keep the memory for a few windows of each worker small. It is a multiple of every
#: allowed frame size up to it, so a frame belongs to one window.
WINDOW = 8 << 20
#: The longest zero request. Concurrent requests of 1 GiB have timed out on iSCSI storage.
MAX_ZERO = 128 << 20


class Closing(Protocol):
    """A context manager that closes itself."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Reader(Closing, Protocol):
    """One worker's access to a source."""

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Read the sorted, disjoint (offset, length) `ranges` one after the other into `buffer`.

        The buffer is exactly as long as all ranges together. The reader may combine ranges with small gaps into
        one request, but delivers only the ranges. A short answer raises an error, never returns less.
        """


class AheadReader(Reader, Protocol):
    """A reader that can begin to read early."""

    @property
    def reads_ahead(self) -> bool:
        """Whether that pays."""

    def start(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Begin to read what `read_ranges` will soon read. This takes no time."""


class Source(Protocol):
    """A disk to copy from."""

    @property
    def size(self) -> int:
        """Size of the disk."""

    @property
    def max_readers(self) -> int:
        """How many readers may be open at once."""

    def extents(self) -> ExtentMap:
        """Return the ranges to copy, data and zero. Gaps between them are unchanged and not copied."""

    def open_reader(self) -> Reader:
        """Open another reader, which the caller closes."""


class Writer(Closing, Protocol):
    """One worker's access to a sink."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zero."""


class Sink(Protocol):
    """A disk to copy to."""

    @property
    def max_writers(self) -> int:
        """How many writers may be open at once."""

    @property
    def reads_zero(self) -> bool:
        """Whether all unwritten ranges read as zero already, so that zeroing can be skipped."""

    def open_writer(self) -> Writer:
        """Open another writer, which the caller closes."""

    def flush(self) -> None:
        """Make all writes durable and complete the sink; only now a file gets its name.

        The copier calls it once, after all writers are closed.
        """

    def abort(self) -> None:
        """Remove what the sink itself created, such as a partial file, and touch nothing else.

        Call it after all writers are closed, instead of `flush`. After `flush`, and a second time, it does nothing.
        The code that opened a transfer cancels it.
        """
