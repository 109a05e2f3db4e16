# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices that one thing is read after another, and tells what will be wanted next."""

from __future__ import annotations

from typing import Final

#: Reads no further apart than this are one run: who has several requests open does not keep their order.
_SEQUENTIAL: Final = 2 << 20


class ReadAhead:
    """The reads of one reader, who may want up to `most` bytes made ready before they are asked for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._end = -1
        self._read = 0
        self._asked = 0

    def after(self, offset: int, length: int) -> tuple[int, int] | None:
        """Note a read; return (offset, length) of what is to be made ready now, if anything."""
        if abs(offset - self._end) > _SEQUENTIAL:
            self._end = self._asked = offset + length
            self._read = 0
            return None
        self._end = max(self._end, offset + length)
        self._read += length
        ahead = self._end + min(self._most, self._read)
        self._asked = max(self._asked, self._end)
        # In larger pieces: it takes less time than a little with each request.
        if ahead - self._asked < self._most // 4:
            return None
        asked, self._asked = self._asked, ahead
        return asked, ahead - asked
