# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of streams: one thread reads the stream front to back, and workers write the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

from pitr.copier.copy import DEFAULT_WORKERS, Copied, OrderedSink, OrderedWriter
from pitr.copier.protocols import WINDOW, Sink
from pitr.copier.streamed import Passing, StreamedSource
from pitr.copier.workers import Workers
from pitr.errors import UsageError
from pitr.reporting import Progress
from pitr.system import rate_limit
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by

#: How many batches may wait for each worker.
_AHEAD = 2
#: Bounds a batch that holds only zero ranges.
_MAX_PASSING = 4096

_Batch = list[Passing]


def pour(
    source: StreamedSource, sink: Sink, *, workers: int = DEFAULT_WORKERS, progress: Progress | None = None
) -> Copied:
    """Copy the whole stream to `sink`, and flush the sink. The caller closes both, and aborts the sink after an error.

    The calling thread reads the stream, so that a signal's exception ends the reading. Memory is bounded by the
    number of workers and the size of a window, whatever the stream holds.
    """
    return _Pouring(source, sink, max(1, min(workers, sink.max_writers)), progress).run()


class _Pouring:
    def __init__(self, source: StreamedSource, sink: Sink, workers: int, progress: Progress | None) -> None:
        self._source = source
        self._sink = sink
        self._workers = workers
        self._progress = progress
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, _Batch]] = deque()
        self._unfinished = 0
        self._ended = False
        self._cancellation = Cancellation()
        self._error: BaseException | None = None
        self._made: dict[int, Any] = {}
        self._next_made = 0
        self._written = self._zeroed = self._skipped = 0

    def run(self) -> Copied:
        threads = Workers()
        try:
            for number in range(self._workers):
                threads.start(self._work, f"pour-{number}")
            for number, batch in enumerate(_batches(self._source.passing())):
                self._put(number, batch)
            self._end(None)
            threads.wait()
        except BaseException as error:
            self._end(error)
            threads.wait_after_stop()
            if not isinstance(error, Cancelled):
                raise
        if self._error is not None:
            raise self._error
        self._sink.flush()
        return Copied(self._source.size, self._written, self._zeroed, self._skipped)

    def _put(self, number: int, batch: _Batch) -> None:
        with self._changed:
            while self._error is None and self._unfinished >= self._workers * _AHEAD:
                # A short wait lets a signal's handler run.
                self._changed.wait(0.5)
            if self._error is not None:
                raise Cancelled("a worker failed")
            self._waiting.append((number, batch))
            self._unfinished += 1
            self._changed.notify_all()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended = True
            if error is not None and self._error is None:
                self._error = error
                self._cancellation.cancel()
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            with cancelled_by(self._cancellation), self._sink.open_writer() as writer:
                ordered = isinstance(writer, OrderedWriter)
                while (taken := self._take()) is not None:
                    number, batch = taken
                    counts = self._write(writer, batch)
                    made = cast(OrderedWriter, writer).take() if ordered else None
                    self._deliver(number, made, counts)
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            self._end(error)

    def _take(self) -> tuple[int, _Batch] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._error is not None or not self._waiting:
                return None
            return self._waiting.popleft()

    def _write(self, writer: Any, batch: _Batch) -> tuple[int, int, int]:
        written = zeroed = skipped = 0
        for extent, data in batch:
            if data is not None:
                writer.write(extent.start, memoryview(data))
                written += extent.length
            elif self._sink.reads_zero:
                skipped += extent.length
            else:
                writer.zero(extent.start, extent.length)
                zeroed += extent.length
        return written, zeroed, skipped

    def _deliver(self, number: int, made: Any, counts: tuple[int, int, int]) -> None:
        with self._changed:
            if self._error is not None:
                return
            self._made[number] = made
            while self._next_made in self._made:
                ready = self._made.pop(self._next_made)
                if isinstance(self._sink, OrderedSink):
                    self._sink.append(ready)
                self._next_made += 1
                self._unfinished -= 1
            self._written += counts[0]
            self._zeroed += counts[1]
            self._skipped += counts[2]
            if self._progress is not None:
                self._progress(self._written + self._zeroed + self._skipped, self._source.size)
            self._changed.notify_all()


def _batches(passing: Iterator[Passing]) -> Iterator[_Batch]:
    """Gather ranges into batches of about a window of data, so that each keeps a worker busy."""
    batch: _Batch = []
    data_bytes = 0
    for piece in passing:
        length = 0 if piece.data is None else piece.extent.length
        if length:
            rate_limit.spend(length)
        if batch and (data_bytes + length > WINDOW or len(batch) >= _MAX_PASSING):
            yield batch
            batch, data_bytes = [], 0
        batch.append(piece)
        data_bytes += length
    if batch:
        yield batch


def check_whole(source: StreamedSource) -> None:
    """Raise UsageError for a stream that holds only changes."""
    if not source.whole:
        raise UsageError(
            "the stream is incremental: it does not hold the whole disk",
            "Import it into a repository that has the stream it is based on, and restore from there.",
        )
