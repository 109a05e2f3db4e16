# SPDX-License-Identifier: GPL-2.0-or-later
"""The threads of a copy, with a wait that survives a signal's exception at any moment."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

#: How often the main thread lets signal handlers run.
_WAKE_S = 0.5


class Workers:
    """Threads that share one job. One calling thread starts them and waits for them.

    Thread.join does not suffice: in CPython 3.11, a join that a signal's exception interrupts marks the thread as
    ended. The program would then exit while threads still close files and transfers.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._started = self._working = self._ended = 0

    def start(self, work: Callable[[], None], name: str) -> None:
        """Start another thread with `work`, which handles its own errors."""

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

        # The lines that the thread logs name the same VM as those of this one.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run,), name=name, daemon=True).start()
        self._started += 1

    def wait(self) -> None:
        """Wait until all started threads have ended."""
        with self._changed:
            while self._ended < self._started:
                self._changed.wait(_WAKE_S)

    def wait_after_stop(self) -> None:
        """Wait until no thread works. Call it after the job was cancelled; a thread that starts later does nothing.

        `wait` could wait forever here: a start that a signal interrupted may be counted without a thread.
        """
        with self._changed:
            while self._working:
                self._changed.wait(_WAKE_S)
