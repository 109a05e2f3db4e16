# SPDX-License-Identifier: GPL-2.0-or-later
"""A source or a sink that passes on another one, for those that change only a part of it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pitr.copier.copy import OrderedSink
from pitr.copier.protocols import Reader, Source
from pitr.extents import ExtentMap

S = TypeVar("S", bound=Source)
K = TypeVar("K", bound=OrderedSink)


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


class WrappedSink(Generic[K]):
    """Another ordered sink, but for the writers, which a subclass opens."""

    reads_zero = False

    def __init__(self, sink: K) -> None:
        self._sink = sink

    @property
    def max_writers(self) -> int:
        return self._sink.max_writers

    def append(self, made: Any) -> None:
        """Add the next results of a writer; one caller at a time."""
        self._sink.append(made)

    def flush(self) -> None:
        self._sink.flush()

    def abort(self) -> None:
        self._sink.abort()
