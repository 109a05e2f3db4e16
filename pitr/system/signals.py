# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits that a signal ends.

The system's own signal handler writes to a pipe, and a wait polls that pipe. A handler in Python does not suffice: it
runs only in the main thread, and only between two steps of Python, so a signal just before a wait would not end it.

`Signals` takes the signals over. `WakeOnSignal` leaves their handlers as they are and ends the waits of workers
beside them. A cancellation (cancellation.py) is set by pitr's own threads, so it needs no pipe.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from pitr.errors import PitrError
from pitr.system.closing import Closes

#: The signals after which pitr cleans up and exits.
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WOKEN: Final = 0


def not_ignored(signums: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return the signals that this process was not told to ignore when it started, as nohup(1) does with SIGHUP."""
    return [signum for signum in signums if signal.getsignal(signum) is not signal.SIG_IGN]


class _WakeUpPipe(Closes):
    """A pipe that gets the number of each signal that has a handler, if it was opened in the main thread."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: int | None = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self.write_end, warn_on_full_buffer=False)

    def poll(self, timeout_s: float | None, *, writable: int | None = None) -> bool:
        """Wait for a byte in the pipe or for `writable`, a file descriptor; return whether the pipe has a byte."""
        # Not select: a long chain has more than 1,024 files open.
        waiting = select.poll()
        waiting.register(self.read_end, select.POLLIN)
        if writable is not None:
            waiting.register(writable, select.POLLOUT)
        ready = waiting.poll(None if timeout_s is None else timeout_s * 1000)
        return any(descriptor == self.read_end for descriptor, _ in ready)

    def close(self) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
            self._before = None
        if self.read_end >= 0:
            os.close(self.read_end)
            os.close(self.write_end)
            self.read_end = self.write_end = -1


class Signals:
    """Return SIGINT, SIGTERM and SIGHUP from `wait` while the block runs; they raise nothing. Main thread only."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._pipe = stack.enter_context(_WakeUpPipe())
            for signum in not_ignored(ENDING):
                stack.callback(signal.signal, signum, signal.getsignal(signum))
                signal.signal(signum, lambda *_: None)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the next signal and return its number; None after `timeout_s` seconds or a call of `wake`."""
        if not self._pipe.poll(timeout_s):
            return None
        return os.read(self._pipe.read_end, 1)[0] or None

    def wake(self) -> None:
        """End the wait, from another thread."""
        os.write(self._pipe.write_end, bytes([_WOKEN]))


class WakeOnSignal(Closes):
    """Ends the waits of all threads when a signal with a handler comes, and every later wait.

    Open and close it in the main thread; opened in another thread, it only waits.
    """

    def __init__(self) -> None:
        self._pipe = _WakeUpPipe()

    def wait(self, writable: int | None, timeout_s: float | None) -> None:
        """Wait until `writable` can be written to or has lost its reader. Raise PitrError after a signal."""
        if self._pipe.poll(timeout_s, writable=writable):
            raise PitrError("stopped by a signal")

    def close(self) -> None:
        self._pipe.close()
