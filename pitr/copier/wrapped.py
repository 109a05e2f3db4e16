# SPDX-License-Identifier: GPL-2.0-or-later
"""A source that passes on another one, for sources that change only a part of it."""

from __future__ import annotations

from typing import Generic, TypeVar

from pitr.copier.protocols import Reader, Source
from pitr.extents import ExtentMap

S = TypeVar("S", bound=Source)


class WrappedSource(Generic[S]):
    """The size, the extents and the readers of another source. A subclass changes some of them."""

    def __init__(self, source: S) -> None:
        self._source = source

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def max_readers(self) -> int:
        return self._source.max_readers

    def extents(self) -> ExtentMap:
        return self._source.extents()

    def open_reader(self) -> Reader:
        return self._source.open_reader()
