# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads of blobs that are far away, several at once, because each is a request that takes its time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

from pitr.repository.store import StoredFile
from pitr.system.cancellation import Cancellation, cancelled_by, current_cancellation
from pitr.system.closing import Closes

#: How many requests of one point are under way at once.
AT_ONCE = 8

#: A range of a blob: the file, the offset and the length.
Range = tuple[StoredFile, int, int]


class ReadThreads(Closes):
    """The threads that read for all readers of a point. They start with the first read."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="read-ahead")

    def start(self, part: Range) -> Future[bytes]:
        """Begin to read a range."""
        return self._threads.submit(_read, part, current_cancellation())

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class ReadsAhead(Closes):
    """The reads of one reader that have begun. Only one thread uses it."""

    def __init__(self, threads: ReadThreads) -> None:
        self._threads = threads
        self._begun: dict[tuple[int, int, int], Future[bytes]] = {}

    def start(self, parts: Iterable[Range]) -> None:
        """Begin to read these ranges, except those that have begun."""
        for part in parts:
            if _key(part) not in self._begun:
                self._begun[_key(part)] = self._threads.start(part)

    def read(self, part: Range) -> bytes:
        """Return the bytes of a range; wait for it if it has begun. Raises the errors of the store, and Cancelled."""
        begun = self._begun.pop(_key(part), None)
        # A cancellation also ends the request, so that this wait ends.
        return begun.result() if begun is not None else _read(part, None)

    def close(self) -> None:
        """Drop the reads that nobody wants any more."""
        for begun in self._begun.values():
            begun.cancel()
        self._begun.clear()


def _key(part: Range) -> tuple[int, int, int]:
    file, offset, length = part
    return id(file), offset, length


def _read(part: Range, cancellation: Cancellation | None) -> bytes:
    file, offset, length = part
    with cancelled_by(cancellation) if cancellation is not None else nullcontext():
        return file.read_at(offset, length)
