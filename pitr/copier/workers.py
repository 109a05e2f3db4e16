# SPDX-License-Identifier: GPL-2.0-or-later
"""The threads of a copy, waited for although a signal's exception may come at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: The main thread looks for signals at least this often.
_WAKE_S = 0.5


class Workers:
    """Threads that do one work together, started and waited for by one calling thread.

    Joining them would not do: a join that a signal's exception interrupts takes its thread for ended (CPython 3.11),
    so that the program would go on, and exit, while files and transfers are still being closed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._started = self._working = self._ended = 0

    def start(self, work: Callable[[], None], name: str) -> None:
        """Start one more thread with `work`, which handles its own errors."""

        def run() -> None:
            with self._changed:
                self._working += 1
            try:
                work()
            finally:
                with self._changed:
                    self._working -= 1
                    self._ended += 1
                    self._changed.notify_all()

        threading.Thread(target=run, name=name, daemon=True).start()
        self._started += 1

    def wait(self) -> None:
        """Wait until all threads that were started have ended."""
        with self._changed:
            while self._ended < self._started:
                self._changed.wait(_WAKE_S)

    def wait_after_stop(self) -> None:
        """Wait until no thread is at work, once they were told to stop: one that begins only now has nothing to do.

        A start that a signal interrupted may or may not count as one, so that `wait` could wait for ever.
        """
        with self._changed:
            while self._working:
                self._changed.wait(_WAKE_S)
