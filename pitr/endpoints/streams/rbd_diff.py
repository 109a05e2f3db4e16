# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as rbd diffs on pipes and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from pitr.copier.streamed import Passing, PassingWriter
from pitr.endpoints.streams.one_way import OneWaySink, pass_records
from pitr.errors import FormatError
from pitr.formats import rbd_diff
from pitr.formats.in_order import InOrder


class RbdDiffSink(OneWaySink):
    """A sink that writes an rbd diff, in the order of the disk, to `write`.

    Without `from_snapshot` it is a diff from an empty disk. The diff is complete only after `flush`.
    """

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

    def _zero(self, start: int, length: int) -> None:
        self._write(rbd_diff.zero_record(self._version, start, length))


class RbdDiffSource:
    """An rbd diff, version 1 or 2, read once from a binary file object. The caller closes the file object.

    A diff from an empty disk is `whole`: the ranges that it leaves out pass as zero. `alone`: nothing may follow
    after the diff. Raises FormatError.
    """

    def __init__(self, stream: BinaryIO, *, alone: bool = True) -> None:
        self._stream = stream
        self._alone = alone
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
        yield from pass_records(self._reader, self.size if self.whole else None)
        if self._alone and self._stream.read(1):
            raise FormatError("something follows after the end of the rbd diff")
