# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies with random access: `copy(source, sink)`, and several copies at once with one set of workers.

A worker takes the next window of a copy, reads its data in as few requests as the source allows, writes the data and
zeroes the rest, so that each byte is written or zeroed at most once. An ordered sink (`append`) gets the results of
its writers in the order of the disk; workers that are too far ahead wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

from pitr.copier.plan import Window, plan
from pitr.copier.protocols import WINDOW, AheadReader, Reader, Sink, Source, Writer
from pitr.copier.workers import Workers
from pitr.reporting import Progress
from pitr.system import rate_limit
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by

DEFAULT_WORKERS = 4
#: Windows under a limit of the rate are at least so large: one of pitr's own frames.
_SMALLEST_WINDOW = 1 << 20
#: How many windows of each worker may wait for an earlier window.
_AHEAD = 2


@runtime_checkable
class OrderedSink(Sink, Protocol):
    """A sink that stores the results of its writers in the order of the disk."""

    def append(self, made: Any) -> None:
        """Store the next result of a writer's `take`; one caller at a time."""


@runtime_checkable
class OrderedWriter(Writer, Protocol):
    """A writer of an ordered sink."""

    def take(self) -> Any:
        """Return the result of all writes since the last call."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of one copy, in bytes of the disk. `skipped` ranges are zero and were zero in the sink already."""

    size: int
    written: int
    zeroed: int
    skipped: int


class Copying(Protocol):
    """One of several copies. The first worker that takes a window of it opens it."""

    def open(self) -> AbstractContextManager[tuple[Source, Sink]]:
        """Return the context of the copy. It exits after the sink's flush, or with Cancelled after an error."""


@dataclass(frozen=True, slots=True)
class _Opened:
    source: Source
    sink: Sink

    def open(self) -> AbstractContextManager[tuple[Source, Sink]]:
        return nullcontext((self.source, self.sink))


def copy(
    source: Source, sink: Sink, *, workers: int = DEFAULT_WORKERS, progress: Progress | None = None
) -> Copied:
    """Copy all extents of `source` to `sink`, and flush the sink.

    The caller closes both, and aborts the sink after an error.
    """
    return copy_all([_Opened(source, sink)], workers=workers, progress=progress)[0]


def copy_all(
    copies: Sequence[Copying], *, workers: int = DEFAULT_WORKERS, progress: Progress | None = None
) -> list[Copied]:
    """Run several copies with `workers` threads in all, and return their results in the same order.

    The first error cancels all copies, and so does a signal's exception in the calling thread. Raises it once all
    copies are closed.
    """
    pool = _Pool([_Task(copying) for copying in copies], progress)
    threads = Workers()
    try:
        for number in range(max(1, workers) if copies else 0):
            threads.start(pool.work, f"copy-{number}")
        threads.wait()
    except BaseException as error:
        pool.stop(error)
        threads.wait_after_stop()
        raise
    if pool.error is not None:
        raise pool.error
    return [task.copied for task in pool.tasks]


@dataclass(slots=True)
class _Task:
    """The state of one copy. The pool's lock guards all fields."""

    copying: Copying
    stack: ExitStack = field(default_factory=ExitStack)
    source: Source | None = None
    sink: Sink | None = None
    ordered: OrderedSink | None = None
    works: Iterator[Window] = field(default_factory=lambda: iter(()))
    opening: bool = False
    exhausted: bool = False
    closed: bool = False
    workers: int = 0
    limit: int = 1
    next_number: int = 0
    taken: int = 0
    storing: bool = False
    made: dict[int, Any] = field(default_factory=dict)
    written: int = 0
    zeroed: int = 0
    skipped: int = 0

    @property
    def copied(self) -> Copied:
        return Copied(self.source.size if self.source else 0, self.written, self.zeroed, self.skipped)

    @property
    def wants_worker(self) -> bool:
        return not self.exhausted and not self.opening and self.workers < self.limit


class _Pool:
    def __init__(self, tasks: list[_Task], progress: Progress | None) -> None:
        self.tasks = tasks
        self.error: BaseException | None = None
        self._progress = progress
        self._done_bytes = 0
        self._total_bytes = 0
        self._cancellation = Cancellation()
        self._changed = threading.Condition()

    # The calling thread

    def stop(self, error: BaseException) -> None:
        with self._changed:
            if self.error is None:
                self.error = error
            self._cancellation.cancel()
            self._changed.notify_all()

    # A worker

    def work(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            self.stop(error)

    def _work(self) -> None:
        while (task := self._pick()) is not None:
            try:
                with cancelled_by(self._cancellation):
                    if task.source is None:
                        self._open(task)
                    self._copy(task)
            except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                self.stop(error)
            self._leave(task)

    def _pick(self) -> _Task | None:
        """Return the copy with the fewest workers among those that can use another one; None when all are done."""
        with self._changed:
            while True:
                if self._cancellation.is_cancelled() or all(task.exhausted for task in self.tasks):
                    return None
                wanting = [task for task in self.tasks if task.wants_worker]
                if wanting:
                    task = min(wanting, key=lambda task: task.workers)
                    task.workers += 1
                    if task.source is None:
                        task.opening = True
                    return task
                self._changed.wait()

    def _open(self, task: _Task) -> None:
        source, sink = task.stack.enter_context(task.copying.open())
        extents = source.extents()
        limit = max(1, min(source.max_readers, sink.max_writers))
        with self._changed:
            task.source, task.sink = source, sink
            task.ordered = sink if isinstance(sink, OrderedSink) else None
            task.works = plan(extents, _window())
            task.limit = limit
            task.opening = False
            self._total_bytes += int(extents.length.sum())
            self._changed.notify_all()

    def _copy(self, task: _Task) -> None:
        source, sink = task.source, task.sink
        if source is None or sink is None:
            raise RuntimeError("the copy is not open")
        with source.open_reader() as reader, sink.open_writer() as writer:
            buffer = bytearray(0)
            # Asked once: Python takes a tenth of a millisecond to compare an object with a protocol.
            ordered = isinstance(writer, OrderedWriter)
            for work in self._works(task, reader):
                if len(buffer) < work.data_bytes:
                    buffer = bytearray(WINDOW)
                with memoryview(buffer) as view:
                    done = _copy_window(work, reader, writer, view[: work.data_bytes], sink.reads_zero)
                made = cast(OrderedWriter, writer).take() if ordered else None
                self._deliver(task, work, made, done)

    def _works(self, task: _Task, reader: Reader) -> Iterator[Window]:
        """Yield a worker's windows. A reader that reads ahead has begun the next one by then."""
        if not getattr(reader, "reads_ahead", False):
            while (work := self._next(task)) is not None:
                yield work
            return
        start = cast(AheadReader, reader).start
        begun: Window | None = None
        while (work := begun or self._next(task)) is not None:
            if begun is None:
                start(work.data_ranges)
            # Not if it had to wait: perhaps for this one.
            begun = self._next(task, waits=False)
            if begun is not None:
                start(begun.data_ranges)
            yield work

    def _next(self, task: _Task, *, waits: bool = True) -> Window | None:
        with self._changed:
            ahead = _AHEAD * max(1, task.workers)
            if task.ordered is not None and not waits and task.taken >= task.next_number + ahead:
                return None
            work = None if self._cancellation.is_cancelled() else next(task.works, None)
            if work is None:
                task.exhausted = True
                self._changed.notify_all()
                return None
            task.taken = work.number + 1
            if task.ordered is None:
                return work
            self._changed.wait_for(
                lambda: self._cancellation.is_cancelled() or work.number < task.next_number + ahead
            )
            return None if self._cancellation.is_cancelled() else work

    def _deliver(self, task: _Task, work: Window, made: Any, done: tuple[int, int, int]) -> None:
        with self._changed:
            if self._cancellation.is_cancelled():
                return
            task.written += done[0]
            task.zeroed += done[1]
            task.skipped += done[2]
            self._done_bytes += sum(done)
            if self._progress is not None:
                self._progress(self._done_bytes, self._total_bytes)
            if task.ordered is None:
                return
            task.made[work.number] = made
            if task.storing or task.next_number not in task.made:
                return
            task.storing = True
        self._store(task)

    def _store(self, task: _Task) -> None:
        """Store the results that are next in the order of the disk. One worker at a time; the others keep copying."""
        sink = cast(OrderedSink, task.ordered)
        while True:
            with self._changed:
                if self._cancellation.is_cancelled() or task.next_number not in task.made:
                    task.storing = False
                    return
                ready = task.made.pop(task.next_number)
            sink.append(ready)
            with self._changed:
                task.next_number += 1
                self._changed.notify_all()

    def _leave(self, task: _Task) -> None:
        """Leave a copy. The last worker closes it."""
        with self._changed:
            task.workers -= 1
            task.opening = False
            last = (
                task.workers == 0
                and (task.exhausted or self._cancellation.is_cancelled())
                and not task.closed
            )
            if last:
                task.closed = True
                task.exhausted = True
            self._changed.notify_all()
        if last:
            self._close(task)

    def _close(self, task: _Task) -> None:
        failed = self.error
        try:
            if failed is None and task.sink is not None:
                with cancelled_by(self._cancellation):
                    task.sink.flush()
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failed = error
            self.stop(error)
        try:
            if failed is None:
                task.stack.close()
            else:
                cancelled = Cancelled("the copy was cancelled")
                task.stack.__exit__(type(cancelled), cancelled, None)
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            self.stop(error)


def _window() -> int:
    """Return the size of a window: less than usual if a limit of the rate is less, in multiples of the smallest."""
    second = rate_limit.one_second()
    window = WINDOW
    while second is not None and window > max(second, _SMALLEST_WINDOW):
        window //= 2
    return window


def _copy_window(
    work: Window, reader: Reader, writer: Writer, buffer: memoryview, reads_zero: bool
) -> tuple[int, int, int]:
    """Copy one window through `buffer`. Return how many bytes were written, zeroed and skipped."""
    ranges = work.data_ranges
    if ranges:
        rate_limit.spend(work.data_bytes)
        reader.read_ranges(ranges, buffer)
    written = zeroed = skipped = at = 0
    for extent in work.extents:
        if not extent.zero:
            writer.write(extent.start, buffer[at : at + extent.length])
            at += extent.length
            written += extent.length
        elif reads_zero:
            skipped += extent.length
        else:
            writer.zero(extent.start, extent.length)
            zeroed += extent.length
    return written, zeroed, skipped
