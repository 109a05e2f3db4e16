# SPDX-License-Identifier: GPL-2.0-or-later
"""What the copy engine asks of a source and of a sink.

A source and a sink are opened once and give out readers and writers, one for each worker thread: a reader or
writer is used by one thread at a time. Both are context managers; closing one closes its connection only.
All offsets and lengths are bytes. Failures are raised as the types of pitr.errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from pitr.extents import ExtentMap

#: Data is copied in windows that begin and end at multiples of this many bytes of the disk: large enough that a
#: request costs little beside its data, small enough that a few of them for each worker stay small in memory.
#: A multiple of every allowed frame size up to it, so that a frame belongs to one window.
WINDOW = 8 << 20
#: No longer request to zero: concurrent ones of 1 GiB have timed out on iSCSI storage.
MAX_ZERO = 128 << 20


class Closing(Protocol):
    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Reader(Closing, Protocol):
    """One worker's way into a source."""

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        """Read (offset, length) `ranges`, sorted and disjoint, one after the other into `buffer`.

        The buffer is exactly as long as all ranges together. The reader may read across small gaps between
        ranges when that is cheaper than a request for each, but delivers only the ranges. A short answer is
        an error, never a shorter result.
        """


class Source(Protocol):
    """Something that a disk can be read from."""

    @property
    def size(self) -> int:
        """Size of the disk."""

    @property
    def max_readers(self) -> int:
        """How many readers may be open at once."""

    def extents(self) -> ExtentMap:
        """The ranges to copy: data and zero; what is in neither is unchanged and not copied."""

    def open_reader(self) -> Reader: ...


class Writer(Closing, Protocol):
    """One worker's way into a sink."""

    def write(self, offset: int, data: memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...


class Sink(Protocol):
    """Something that a disk can be written to."""

    @property
    def max_writers(self) -> int:
        """How many writers may be open at once."""

    @property
    def reads_zero(self) -> bool:
        """True when every range that is not written reads as zero already, so that zeroing can be skipped."""

    def open_writer(self) -> Writer: ...

    def flush(self) -> None:
        """Make everything written so far durable, and finish what was begun (a file gets its name only now).

        Called once, after all writers are closed.
        """

    def abort(self) -> None:
        """Undo what was created, as far as it is the sink's own (a partial file); nothing else is touched.

        Called instead of `flush`, or after it (then it does nothing), after all writers are closed; harmless
        when done twice. A transfer is cancelled by whoever opened it.
        """
