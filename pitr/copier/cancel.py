# SPDX-License-Identifier: GPL-2.0-or-later
"""Work of threads that nobody waits for any more: what they know of it, and how their waiting is broken.

An error in one thread, or Ctrl-C in the main one, ends the work of all. A thread that waits for a server meanwhile
would go on waiting, and whoever ends the work waits for the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Abandoned(Exception):
    """What a thread was to do is not wanted any more; whoever abandoned it says why."""


class Abandoning:
    """Tells the threads that do one work together that it is abandoned, and breaks what they wait for."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._breaks: set[Callable[[], None]] = set()

    def set(self) -> None:
        """Abandon the work: call each `break_` of those who wait now, and at once that of any who begin later."""
        with self._lock:
            self._set.set()
            for break_ in self._breaks:
                break_()

    def is_set(self) -> bool:
        return self._set.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for `set`, at most `timeout_s` seconds; return whether it came."""
        return self._set.wait(timeout_s)

    def add(self, break_: Callable[[], None]) -> None:
        """From now on `set` calls `break_`, in its own thread; it must not wait nor raise."""
        with self._lock:
            self._breaks.add(break_)
            if self._set.is_set():
                break_()

    def discard(self, break_: Callable[[], None]) -> None:
        """Once this has returned, `break_` is not called any more, nor being called."""
        with self._lock:
            self._breaks.discard(break_)


_of_thread = threading.local()


@contextmanager
def abandoned_with(abandoning: Abandoning) -> Iterator[None]:
    """While the block runs, the work of this thread is abandoned when `abandoning` is set."""
    before = abandoning_of_thread()
    _of_thread.abandoning = abandoning
    try:
        yield
    finally:
        _of_thread.abandoning = before


def abandoning_of_thread() -> Abandoning | None:
    """What tells this thread that its work is abandoned; None where nothing does."""
    abandoning: Abandoning | None = getattr(_of_thread, "abandoning", None)
    return abandoning


def pause(seconds: float) -> None:
    """Sleep; raise Abandoned as soon as the work of this thread is abandoned."""
    abandoning = abandoning_of_thread()
    if abandoning is None:
        time.sleep(seconds)
    elif abandoning.wait(seconds):
        raise Abandoned("the work was given up")


def is_abandoned() -> bool:
    """Whether nobody waits any more for what this thread does: then trying again would only delay the end."""
    abandoning = abandoning_of_thread()
    return abandoning is not None and abandoning.is_set()
