# SPDX-License-Identifier: GPL-2.0-or-later
"""One limit for all the data that a process moves, whichever transfers and threads move it.

The limit is a token bucket that holds at most one second. A thread takes what it is going to move at once and waits for
the debt that is left, so that large pieces need no special treatment. Without a limit, `spend` costs one comparison.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.system.cancellation import pause

#: The longest single wait. A signal ends it in the main thread, a cancellation in all others.
_STEP_S = 0.5


class RateLimit:
    """At most `rate` bytes a second, over all threads. `rate` is positive."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._tokens = float(rate)
        self._filled_at = time.monotonic()
        self._lifted = False

    def lift(self) -> None:
        """Let all waits end, now and from now on."""
        self._lifted = True

    def spend(self, size: int) -> None:
        """Wait until `size` more bytes are within the limit. Raises Cancelled."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self.rate, self._tokens + (now - self._filled_at) * self.rate) - size
            self._filled_at = now
            # Whoever comes later waits for the debts of all before.
            until = now - self._tokens / self.rate
        while (left := until - time.monotonic()) > 0 and not self._lifted:
            pause(min(left, _STEP_S))


_limit: RateLimit | None = None


def spend(size: int) -> None:
    """Count `size` bytes of disk data that this thread is going to move, and wait if there is a limit."""
    if _limit is not None:
        _limit.spend(size)


def is_limited() -> bool:
    """Return whether this process has a limit."""
    return _limit is not None


def lift() -> None:
    """Let nobody wait for the limit any more, because the command ends: a server gives up what it still moves."""
    if _limit is not None:
        _limit.lift()


def one_second() -> int | None:
    """Return the bytes of one second; None without a limit.

    Larger pieces move in bursts, and a transfer that waits for one may idle for so long that the engine ends it.
    """
    return _limit.rate if _limit is not None else None


@contextmanager
def limited(rate: int | None) -> Iterator[None]:
    """Limit the whole process to `rate` bytes a second while the block runs; None limits nothing."""
    global _limit  # noqa: PLW0603 - the limit is of the process: one network, one storage
    before = _limit
    if rate is not None:
        _limit = RateLimit(rate)
    try:
        yield
    finally:
        _limit = before
