# SPDX-License-Identifier: GPL-2.0-or-later
"""An open object of a store that is far away."""

from __future__ import annotations

from collections.abc import Callable

from pitr.system.closing import Closes


class RemoteFile(Closes):
    """An object of known size. Each read is one request, `read_range`, unless it is of `head`, the first bytes."""

    gap = 256 << 10

    def __init__(
        self, read_range: Callable[[str, int, int], bytes], name: str, size: int, head: bytes = b""
    ) -> None:
        self._read_range = read_range
        self._name = name
        self._size = size
        self._head = head

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self._size - offset)
        if offset + length <= len(self._head):
            return self._head[offset : offset + max(length, 0)]
        return self._read_range(self._name, offset, length) if length > 0 else b""

    def close(self) -> None:
        """Do nothing: no connection belongs to the file."""
