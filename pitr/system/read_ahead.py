# SPDX-License-Identifier: GPL-2.0-or-later
"""Read-ahead: detection of sequential reads, and the range to read next."""

from __future__ import annotations

from typing import Final

#: Reads at most this far apart are sequential. A client with several open requests does not keep their order.
_SEQUENTIAL: Final = 2 << 20


class ReadAhead:
    """Follows the reads of one client and proposes up to `most` bytes to read ahead."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._end = -1
        self._read = 0
        self._asked = 0
        self._proposed = (0, 0)

    def after(self, offset: int, length: int) -> tuple[int, int] | None:
        """Note a read. Return the range to read ahead now as (offset, length); None for none."""
        if abs(offset - self._end) > _SEQUENTIAL:
            self._end = self._asked = offset + length
            self._read = 0
            return None
        self._end = max(self._end, offset + length)
        self._read += length
        ahead = self._end + min(self._most, self._read)
        self._asked = max(self._asked, self._end)
        # Few large ranges take less time than a small one with each request.
        if ahead - self._asked < self._most // 4:
            return None
        asked, self._asked = self._asked, ahead
        start, end = self._proposed
        self._proposed = (start if end == asked else asked, ahead)
        return asked, ahead - asked

    def covers(self, offset: int, length: int) -> bool:
        """Return whether this range is part of those that were proposed last, one after the other."""
        start, end = self._proposed
        return start <= offset and offset + length <= end
