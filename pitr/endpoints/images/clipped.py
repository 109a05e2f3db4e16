# SPDX-License-Identifier: GPL-2.0-or-later
"""The beginning of a source."""

from __future__ import annotations

from pitr.copier.protocols import Source
from pitr.copier.wrapped import WrappedSource
from pitr.extents import ExtentMap


class Clipped(WrappedSource[Source]):
    """At most the first `size` bytes of a source, which stays its caller's to close."""

    def __init__(self, source: Source, size: int) -> None:
        super().__init__(source)
        self._size = min(size, source.size)

    @property
    def size(self) -> int:
        return self._size

    def extents(self) -> ExtentMap:
        return self._source.extents().between(0, self._size)
