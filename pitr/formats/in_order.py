# SPDX-License-Identifier: GPL-2.0-or-later
"""A check that the pieces of a stream come in the order of the disk. It joins adjacent zero ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pitr.errors import FormatError


class InOrder:
    """Checks the pieces of a disk of `size` bytes. A `whole` disk has no gaps.

    Calls `zero(start, length)` for each joined zero range, before `next` accepts the piece that follows it.
    """

    def __init__(self, size: int, *, whole: bool, zero: Callable[[int, int], object]) -> None:
        self._size = size
        self._whole = whole
        self._zero = zero
        self._end = 0
        self._zero_start: int | None = None

    def next(self, start: int, length: int, *, zero: bool) -> None:
        """Note the next piece. Raises FormatError if it overlaps, goes back, exceeds the disk or leaves a gap."""
        if start < self._end or start + length > self._size:
            raise FormatError(f"the extent at {start} is out of order or beyond the end of the disk")
        if start > self._end or not zero:
            self._end_zero()
        if start > self._end and self._whole:
            raise FormatError(f"a full stream must not leave out {self._end} to {start}")
        if zero and self._zero_start is None:
            self._zero_start = start
        self._end = start + length

    def next_data(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Note the next pieces, (start, length) of data. Raises FormatError like `next`."""
        for start, length in ranges:
            if start == self._end and self._zero_start is None and start + length <= self._size:
                self._end = start + length
            else:
                self.next(start, length, zero=False)

    def finish(self) -> None:
        """End the disk. Raises FormatError if a whole disk is not complete."""
        self._end_zero()
        if self._whole and self._end != self._size:
            raise FormatError(f"a full stream must not end at {self._end} of {self._size} bytes")

    def _end_zero(self) -> None:
        if self._zero_start is not None:
            start, self._zero_start = self._zero_start, None
            self._zero(start, self._end - start)
