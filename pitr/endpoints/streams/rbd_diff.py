# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as rbd diffs on pipes and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from pitr.copier.streamed import Passing, PassingWriter, cut
from pitr.errors import FormatError
from pitr.extents import Extent
from pitr.formats import rbd_diff
from pitr.formats.in_order import InOrder


class RbdDiffSink:
    """A sink that writes an rbd diff, in the order of the disk, to `write`.

    Without `from_snapshot` it is a diff from an empty disk. The diff is complete only after `flush`.
    """

    max_writers = 1 << 10
    reads_zero = False

    def __init__(
        self,
        write: Callable[[bytes], object],
        size: int,
        *,
        version: rbd_diff.Version = 1,
        from_snapshot: str | None = None,
        to_snapshot: str | None = None,
    ) -> None:
        self._write = write
        self._version = version
        self._order = InOrder(size, whole=False, zero=self._zero)
        write(rbd_diff.beginning(version, size, from_snapshot=from_snapshot, to_snapshot=to_snapshot))

    def open_writer(self) -> PassingWriter:
        return PassingWriter(rbd_diff.MAX_WRITE)

    def append(self, pieces: Sequence[Passing]) -> None:
        """Write the next pieces of the disk. One caller at a time."""
        for extent, data in pieces:
            self._order.next(extent.start, extent.length, zero=data is None)
            if data is not None:
                self._write(rbd_diff.write_header(self._version, extent.start, extent.length))
                self._write(data)

    def flush(self) -> None:
        self._order.finish()
        self._write(rbd_diff.ending(self._version))

    def abort(self) -> None:
        """Nothing: what was written is without an end."""

    def _zero(self, start: int, length: int) -> None:
        self._write(rbd_diff.zero_record(self._version, start, length))


class RbdDiffSource:
    """An rbd diff, version 1 or 2, read once from a binary file object. The caller closes the file object.

    A diff from an empty disk is `whole`: the ranges that it leaves out pass as zero. Raises FormatError.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._reader = rbd_diff.RbdDiffReader(stream)

    @property
    def size(self) -> int:
        return self._reader.size

    @property
    def whole(self) -> bool:
        return self._reader.from_snapshot is None

    @property
    def from_snapshot(self) -> str | None:
        return self._reader.from_snapshot

    @property
    def to_snapshot(self) -> str | None:
        return self._reader.to_snapshot

    def passing(self) -> Iterator[Passing]:
        end = 0
        for record in self._reader:
            if self.whole:
                yield from self._left_out(end, record.start)
            yield from cut(Extent(record.start, record.length, record.zero), self._reader.read)
            end = record.start + record.length
        if self.whole:
            yield from self._left_out(end, self.size)
        if self._stream.read(1):
            raise FormatError("something follows after the end of the rbd diff")

    def _left_out(self, start: int, end: int) -> Iterator[Passing]:
        if start < end:
            yield from cut(Extent(start, end - start, True), self._reader.read)
