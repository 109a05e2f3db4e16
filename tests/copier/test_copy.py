# SPDX-License-Identifier: GPL-2.0-or-later
"""The copier: it copies every byte once, any error ends all copies, and no worker runs too far ahead."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.copier import Copied, copy, copy_all
from pitr.copier.plan import plan
from pitr.copier.protocols import MAX_ZERO, WINDOW, Sink, Source
from pitr.endpoints.images.memory import MemoryReader, MemorySink, MemorySource, MemoryWriter
from pitr.extents import ExtentMap
from pitr.system.closing import Closes
from tests.support.points import disk, source

_MIB = 1 << 20


# Plans


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from("A0-")), max_size=30),
    st.integers(1, 64),
    st.integers(1, 200),
)
def test_a_plan_has_each_range_once_and_in_order(
    parts: list[tuple[int, str]], window: int, max_zero: int
) -> None:
    content, extents = disk(" ".join(f"{length}:{what}" for length, what in parts))
    letters = bytearray(b"-" * len(content))
    end = 0
    for number, work in enumerate(plan(extents, window, max_zero)):
        assert work.number == number
        assert work.extents
        assert work.data_bytes <= window
        data = [extent for extent in work.extents if not extent.zero]
        assert len({extent.start // window for extent in data}) <= 1
        assert all((extent.start + extent.length - 1) // window == extent.start // window for extent in data)
        for start, length, zero in work.extents:
            assert start >= end
            assert not zero or length <= max_zero
            letters[start : start + length] = (b"0" if zero else b"A") * length
            end = start + length
    expected = "".join(what * length for length, what in parts)
    assert letters.decode() == expected


def test_a_tebibyte_of_zeroes_is_few_windows() -> None:
    works = list(plan(ExtentMap.all_zero(1 << 40)))
    assert len(works) == (1 << 40) // MAX_ZERO
    assert all(work.data_bytes == 0 for work in works)


def test_an_empty_map_has_no_windows() -> None:
    assert list(plan(ExtentMap.of([]))) == []


# Copies


class _Dirty(MemorySink):
    """A sink that holds other data already, like a disk that is overwritten."""

    reads_zero = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.content = bytearray(b"\xff" * size)


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize(
    "text",
    ["", "512:A", "1m:A 9m:0 512:B", "20m:A", "30m:0", "512:0 8m:A 512:0", "8m:A 8m:B 8m:C 8m:0 511:D"],
)
def test_a_copy_is_the_disk(text: str, workers: int) -> None:
    content, extents = disk(text)
    sink = _Dirty(len(content))
    copied = copy(source(text), sink, workers=workers)
    assert sink.content == content
    assert copied == Copied(len(content), extents.data_bytes, extents.zero_bytes, 0)


def test_unchanged_ranges_are_neither_read_nor_written() -> None:
    sink = _Dirty(size=3 * _MIB)
    copied = copy(source("1m:- 1m:A 1m:-"), sink)
    assert sink.content == b"\xff" * _MIB + b"A" * _MIB + b"\xff" * _MIB
    assert copied == Copied(3 * _MIB, _MIB, 0, 0)


def test_zeroes_are_skipped_if_the_sink_reads_zero() -> None:
    assert copy(source("1m:0 1m:A 1m:0"), MemorySink(3 * _MIB)) == Copied(3 * _MIB, _MIB, 0, 2 * _MIB)


def test_progress_ends_with_everything_done_and_calls_do_not_overlap() -> None:
    seen: list[tuple[int, int]] = []
    inside = threading.Lock()

    def progress(done: int, total: int) -> None:
        assert inside.acquire(blocking=False)
        seen.append((done, total))
        inside.release()

    copy(source("40m:A 40m:0"), MemorySink(80 * _MIB), workers=4, progress=progress)
    assert seen[-1] == (80 * _MIB, 80 * _MIB)
    assert seen == sorted(seen)


# Errors and counting


class _Broken(Exception):
    pass


class _Watch:
    """Counts opened, closed and running objects, and fails at a chosen place."""

    def __init__(self, breaks: str = "") -> None:
        self._breaks = breaks
        self._lock = threading.Lock()
        self.opened: dict[str, int] = {}
        self.closed: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.flushed = 0

    def reach(self, where: str) -> None:
        if where == self._breaks:
            raise _Broken(where)

    def open(self, what: str) -> None:
        with self._lock:
            self.opened[what] = self.opened.get(what, 0) + 1
            running = self.opened[what] - self.closed.get(what, 0)
            self.most[what] = max(self.most.get(what, 0), running)

    def close(self, what: str) -> None:
        with self._lock:
            self.closed[what] = self.closed.get(what, 0) + 1


class _Reader(MemoryReader):
    def __init__(self, content: memoryview, watch: _Watch) -> None:
        super().__init__(content)
        self._watch = watch
        watch.open("reader")

    def read_ranges(self, ranges: Sequence[tuple[int, int]], buffer: memoryview) -> None:
        if ranges[0][0] >= 2 * WINDOW:
            self._watch.reach("read")
        super().read_ranges(ranges, buffer)

    def close(self) -> None:
        self._watch.close("reader")
        self._watch.reach("close reader")


class _Source(MemorySource):
    def __init__(self, text: str, watch: _Watch, max_readers: int = 4) -> None:
        content, extents = disk(text)
        super().__init__(content, extents, max_readers=max_readers)
        self._watch = watch

    def extents(self) -> ExtentMap:
        self._watch.reach("extents")
        return super().extents()

    def open_reader(self) -> _Reader:
        self._watch.reach("open reader")
        return _Reader(self._content, self._watch)


class _Writer(MemoryWriter):
    def __init__(self, content: bytearray, watch: _Watch) -> None:
        super().__init__(content)
        self._watch = watch
        self._made: list[int] = []
        watch.open("writer")

    def write(self, offset: int, data: memoryview) -> None:
        if offset >= 2 * WINDOW:
            self._watch.reach("write")
        super().write(offset, data)
        self._made.append(offset)

    def zero(self, offset: int, length: int) -> None:
        self._watch.reach("zero")
        super().zero(offset, length)
        self._made.append(offset)

    def take(self) -> list[int]:
        made, self._made = self._made, []
        return made

    def close(self) -> None:
        self._watch.close("writer")
        self._watch.reach("close writer")


class _Sink(MemorySink):
    """An ordered sink. `appended` has the results, `ahead` how far writers were before the last append."""

    reads_zero = False

    def __init__(self, size: int, watch: _Watch, max_writers: int = 4) -> None:
        super().__init__(size, max_writers=max_writers)
        self._watch = watch
        self.appended: list[int] = []

    def open_writer(self) -> _Writer:
        self._watch.reach("open writer")
        return _Writer(self.content, self._watch)

    def append(self, made: list[int]) -> None:
        if self.appended:
            self._watch.reach("append")
        self.appended += made

    def flush(self) -> None:
        assert self._watch.opened == self._watch.closed or "copy" in self._watch.opened
        self._watch.reach("flush")
        self._watch.flushed += 1


_TEXT = "30m:A 1m:0 9m:B"


class _Copying:
    def __init__(self, watch: _Watch, text: str = _TEXT) -> None:
        self.watch = watch
        self.source = _Source(text, watch)
        self.sink = _Sink(self.source.size, watch)
        self.left_with: list[BaseException | None] = []

    @contextmanager
    def open(self) -> Iterator[tuple[Source, Sink]]:
        self.watch.reach("open")
        self.watch.open("copy")
        try:
            yield self.source, self.sink
        except BaseException as error:
            self.left_with.append(error)
            raise
        else:
            self.left_with.append(None)
            self.watch.reach("leave")
        finally:
            self.watch.close("copy")


_PLACES = [
    "open",
    "extents",
    "open reader",
    "open writer",
    "read",
    "write",
    "zero",
    "append",
    "close reader",
    "close writer",
    "flush",
    "leave",
]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("place", _PLACES)
def test_an_error_anywhere_stops_all_copies_closes_all_once_and_is_raised(place: str, workers: int) -> None:
    watch = _Watch(place)
    copies = [_Copying(watch) for _ in range(3)]
    with pytest.raises(_Broken, match=place):
        copy_all(copies, workers=workers)
    assert watch.opened == watch.closed
    assert all(len(copying.left_with) <= 1 for copying in copies)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy-")]
    if place not in ("flush", "leave"):
        assert all(error is not None for copying in copies for error in copying.left_with)


def test_a_successful_copy_is_flushed_and_closed_once() -> None:
    watch = _Watch()
    copies = [_Copying(watch) for _ in range(5)]
    done = copy_all(copies, workers=3)
    assert [copying.left_with for copying in copies] == [[None]] * 5
    assert watch.flushed == 5
    assert watch.opened == watch.closed
    assert done == [Copied(40 * _MIB, 39 * _MIB, _MIB, 0)] * 5
    for copying in copies:
        assert copying.sink.content == disk(_TEXT)[0]
        assert copying.sink.appended == sorted(copying.sink.appended)


class _Endless(_Source):
    """A disk of a pebibyte, so that its copy does not end during a test."""

    def __init__(self, watch: _Watch, started: threading.Event) -> None:
        super().__init__("512:A", watch)
        self._started = started

    def extents(self) -> ExtentMap:
        return ExtentMap.all_zero(1 << 50)

    def open_reader(self) -> _Reader:
        self._started.set()
        return super().open_reader()


class _Nowhere(_Sink):
    def open_writer(self) -> _Writer:
        return _NowhereWriter(self.content, self._watch)


class _NowhereWriter(_Writer):
    def zero(self, offset: int, length: int) -> None:
        pass


def test_the_calling_thread_s_interrupt_stops_everything_and_closes_it() -> None:
    watch = _Watch()
    started = threading.Event()
    copying = _Copying(watch, "512:A")
    copying.source, copying.sink = _Endless(watch, started), _Nowhere(512, watch)

    def interrupt() -> None:
        started.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    # A shell's background jobs ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            copy_all([copying, _Copying(watch, "512:A")], workers=1)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert watch.opened == watch.closed
    assert copying.left_with != [None]
    assert watch.flushed == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy-")]


def test_an_empty_list_of_copies_returns_at_once() -> None:
    assert copy_all([]) == []


@pytest.mark.parametrize(("readers", "writers"), [(1, 4), (4, 1), (2, 3)])
def test_the_limits_of_source_and_sink_are_kept(readers: int, writers: int) -> None:
    watch = _Watch()
    source = _Source("100m:A", watch, max_readers=readers)
    copy(source, _Sink(source.size, watch, max_writers=writers), workers=8)
    assert watch.most["reader"] <= readers
    assert watch.most["writer"] <= min(readers, writers)


def test_workers_are_shared_by_copies() -> None:
    """Each of two copies accepts one worker, so that two workers run both at the same time."""
    together = threading.Barrier(2, timeout=20)

    class Meeting(MemorySource):
        def open_reader(self) -> MemoryReader:
            together.wait()
            return super().open_reader()

    class One:
        @contextmanager
        def open(self) -> Iterator[tuple[Source, Sink]]:
            yield Meeting(b"A" * 4096, max_readers=1), MemorySink(4096)

    assert copy_all([One(), One()], workers=2) == [Copied(4096, 4096, 0, 0)] * 2


class _Stalled(MemorySink):
    """A sink that holds back the first window until the other workers have gone as far as they can."""

    def __init__(self, size: int, workers: int) -> None:
        super().__init__(size, max_writers=workers)
        self.workers = workers
        self.lock = threading.Lock()
        self.started = 0
        self.go = threading.Event()
        self.largest_lead = 0
        self.appended = 0

    def open_writer(self) -> Any:
        return _StalledWriter(self)

    def append(self, made: int) -> None:
        with self.lock:
            assert made == self.appended
            self.appended += 1


class _StalledWriter(Closes):
    def __init__(self, sink: _Stalled) -> None:
        self._sink = sink
        self._number = 0

    def write(self, offset: int, data: memoryview) -> None:
        sink = self._sink
        self._number = offset // WINDOW
        with sink.lock:
            sink.started += 1
            sink.largest_lead = max(sink.largest_lead, self._number - sink.appended)
            if sink.started > sink.workers:
                sink.go.set()
        if self._number == 0:
            # The others can copy one window more than there are workers without waiting for this one.
            assert sink.go.wait(20)

    def zero(self, offset: int, length: int) -> None:
        raise AssertionError("there are no zeroes")

    def take(self) -> int:
        return self._number

    def close(self) -> None:
        pass


def test_workers_do_not_run_far_ahead_of_the_stored_windows() -> None:
    workers = 4
    content = memoryview(bytearray(40 * WINDOW))
    sink = _Stalled(len(content), workers)
    copy(MemorySource(content, max_readers=workers), sink, workers=workers)
    assert sink.appended == 40
    assert sink.largest_lead <= 2 * workers
