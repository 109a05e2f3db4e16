# SPDX-License-Identifier: GPL-2.0-or-later
"""The common part of streams: sinks that write front to back, and the records of sources that read front to back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pitr.copier.streamed import Passing, cut
from pitr.extents import Extent


class OneWaySink:
    """The common part of sinks that write a disk in its order. Their output is complete only after `flush`."""

    max_writers = 1 << 10
    reads_zero = False

    def abort(self) -> None:
        """Do nothing: every reader notices that the output has no end."""


class RangeRecord(Protocol):
    """A range of a disk in a stream, in bytes."""

    @property
    def start(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def zero(self) -> bool: ...


class RecordReader(Protocol):
    """A stream of records, in the order of the disk. `read` returns the bytes of the current record."""

    def __iter__(self) -> Iterator[RangeRecord]: ...

    def read(self, length: int) -> bytes: ...


def pass_records(records: RecordReader, whole_size: int | None) -> Iterator[Passing]:
    """Yield the ranges of a stream. With the `whole_size` of a disk, ranges between records pass as zero."""
    end = 0
    for record in records:
        if whole_size is not None:
            yield from _zero(end, record.start)
        yield from cut(Extent(record.start, record.length, record.zero), records.read)
        end = record.start + record.length
    if whole_size is not None:
        yield from _zero(end, whole_size)


def _zero(start: int, end: int) -> Iterator[Passing]:
    if start < end:
        yield from cut(Extent(start, end - start, True), bytes)
