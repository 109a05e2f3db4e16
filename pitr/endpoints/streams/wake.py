# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting that a signal ends, in any thread.

A signal's handler runs in the main thread. A worker that waits for a pipe meanwhile would never learn of it, and
the main thread waits for the worker.
"""

from __future__ import annotations

import os
import select
import signal
import threading

from pitr.errors import PitrError
from pitr.system.closing import Closes


class Wake(Closes):
    """While it is open, a signal that has a handler wakes those who wait. Opened and closed in the main thread;
    in another one it only waits."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: int | None = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def wait(self, writable: int | None, timeout_s: float | None) -> None:
        """Wait until `writable` can be written to, or has lost its reader. Raises PitrError after a signal."""
        waiting = select.poll()
        waiting.register(self._read, select.POLLIN)
        if writable is not None:
            waiting.register(writable, select.POLLOUT)
        for descriptor, _ in waiting.poll(None if timeout_s is None else timeout_s * 1000):
            if descriptor == self._read:
                raise PitrError("stopped by a signal")

    def close(self) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
            self._before = None
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1
