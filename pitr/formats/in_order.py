# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of a disk that have to come in its order, as streams are written: checked, zero ranges that touch as one."""

from __future__ import annotations

from collections.abc import Callable

from pitr.errors import FormatError


class InOrder:
    """The pieces of a disk of `size` bytes; of a `whole` one none may be left out.

    `zero(start, length)` is called for each zero range when it has ended: before the piece behind it is let pass.
    """

    def __init__(self, size: int, *, whole: bool, zero: Callable[[int, int], object]) -> None:
        self._size = size
        self._whole = whole
        self._zero = zero
        self._end = 0
        self._zero_start: int | None = None

    def next(self, start: int, length: int, *, zero: bool) -> None:
        """Note the next piece. Raises FormatError when it is not behind the one before, or not right behind it."""
        if start < self._end or start + length > self._size:
            raise FormatError(f"the extent at {start} is out of order or beyond the end of the disk")
        if start > self._end or not zero:
            self._end_zero()
        if start > self._end and self._whole:
            raise FormatError(f"a full stream must not leave out {self._end} to {start}")
        if zero and self._zero_start is None:
            self._zero_start = start
        self._end = start + length

    def finish(self) -> None:
        """There are no more. Raises FormatError when that is too early."""
        self._end_zero()
        if self._whole and self._end != self._size:
            raise FormatError(f"a full stream must not end at {self._end} of {self._size} bytes")

    def _end_zero(self) -> None:
        if self._zero_start is not None:
            start, self._zero_start = self._zero_start, None
            self._zero(start, self._end - start)
