# SPDX-License-Identifier: GPL-2.0-or-later
"""Cancellation of work that several threads do together.

An error in one thread, or Ctrl-C in the main thread, cancels the work of all threads. The canceller waits for the
threads, so a cancellation also breaks their waits for silent servers. Waits that a signal ends are in signals.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancelled(Exception):
    """The work of this thread was cancelled; the canceller reports the reason."""


class Cancellation:
    """Cancels the work of several threads, once and for all, and breaks their waits."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._breaks: set[Callable[[], None]] = set()

    def cancel(self) -> None:
        """Cancel the work: call every `break_` that was added, and from now on each one as it is added."""
        with self._lock:
            self._event.set()
            for break_ in self._breaks:
                break_()

    def is_cancelled(self) -> bool:
        """Return whether the work is cancelled."""
        return self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for `cancel`, at most `timeout_s` seconds; return whether the work is cancelled."""
        return self._event.wait(timeout_s)

    def add(self, break_: Callable[[], None]) -> None:
        """Let `cancel` call `break_`, in the thread that cancels; it must neither wait nor raise."""
        with self._lock:
            self._breaks.add(break_)
            if self._event.is_set():
                break_()

    def discard(self, break_: Callable[[], None]) -> None:
        """Forget `break_`. When this returns, no call of `break_` runs and none follows."""
        with self._lock:
            self._breaks.discard(break_)


_of_thread = threading.local()


@contextmanager
def cancelled_by(cancellation: Cancellation) -> Iterator[None]:
    """Let `cancellation` cancel the work of this thread while the block runs."""
    before = current_cancellation()
    _of_thread.cancellation = cancellation
    try:
        yield
    finally:
        _of_thread.cancellation = before


def current_cancellation() -> Cancellation | None:
    """Return the cancellation of this thread's work; None outside of `cancelled_by`."""
    cancellation: Cancellation | None = getattr(_of_thread, "cancellation", None)
    return cancellation


def pause(seconds: float) -> None:
    """Sleep. Raise Cancelled as soon as the work of this thread is cancelled."""
    cancellation = current_cancellation()
    if cancellation is None:
        time.sleep(seconds)
    elif cancellation.wait(seconds):
        raise Cancelled("the work was cancelled")


def is_cancelled() -> bool:
    """Return whether the work of this thread is cancelled; a retry would then only delay the exit."""
    cancellation = current_cancellation()
    return cancellation is not None and cancellation.is_cancelled()
