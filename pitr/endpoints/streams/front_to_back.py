# SPDX-License-Identifier: GPL-2.0-or-later
"""A stored object as a stream."""

from __future__ import annotations

from pitr.repository.store import StoredFile


class FrontToBack:
    """Reads a stored object from its beginning. The caller that opened the object closes it."""

    def __init__(self, stored: StoredFile) -> None:
        self._stored = stored
        self._position = 0

    def read(self, length: int = -1) -> bytes:
        wanted = self._stored.size - self._position if length < 0 else length
        data = self._stored.read_at(self._position, wanted)
        self._position += len(data)
        return data
