# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals as events that are waited for, instead of exceptions that come anywhere."""

from __future__ import annotations

import os
import select
import signal
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

#: The signals that pitr ends on in order.
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WOKEN: Final = 0


class Signals:
    """While the block runs, SIGINT, SIGTERM and SIGHUP raise nothing: `wait` returns them. In the main thread only.

    They come over a pipe that the system's own signal handler writes to. A handler in Python runs in between two
    steps of Python only: not when the signal has come just before a wait that then goes on without it.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._read, self._write = os.pipe()
            stack.callback(os.close, self._read)
            stack.callback(os.close, self._write)
            os.set_blocking(self._write, False)
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._write, warn_on_full_buffer=False))
            for signum in ENDING:
                stack.callback(signal.signal, signum, signal.getsignal(signum))
                signal.signal(signum, lambda *_: None)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the next signal and return its number: None after the time, or when somebody called `wake`."""
        # Not select: a long chain has more than 1,024 files open.
        waiting = select.poll()
        waiting.register(self._read, select.POLLIN)
        if not waiting.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        return os.read(self._read, 1)[0] or None

    def wake(self) -> None:
        """End the wait, from another thread."""
        os.write(self._write, bytes([_WOKEN]))
