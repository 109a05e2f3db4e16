# SPDX-License-Identifier: GPL-2.0-or-later
"""One limit for all the data that a process and its children move, whichever transfers and threads move it.

The limit is a token bucket that holds at most one second. A thread takes what it is going to move at once and waits for
the debt that is left, so that large pieces need no special treatment. Without a limit, `spend` costs one comparison.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pitr.system.cancellation import pause

#: The longest single wait. A signal ends it in the main thread, a cancellation in all others.
_STEP_S = 0.5
#: The state of a bucket: tokens, and when it was filled.
_STATE = struct.Struct("dd")


class RateLimit:
    """At most `rate` bytes a second, over all threads. `rate` is positive."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._tokens = float(rate)
        self._filled_at = time.monotonic()
        self._lifted = False
        self._shared: _Shared | None = None

    def share(self) -> None:
        """Let processes that are forked from now on count into the same bucket."""
        self._shared = self._shared or _Shared(self._tokens, self._filled_at)

    @property
    def tokens(self) -> float:
        """The bytes that may move at once, as of the last `spend` of this process; negative for a debt."""
        return self._tokens

    def lift(self) -> None:
        """Let all waits end, now and from now on."""
        self._lifted = True

    def spend(self, size: int) -> None:
        """Wait until `size` more bytes are within the limit. Raises Cancelled."""
        with self._lock, self._shared or nullcontext():
            if self._shared is not None:
                self._tokens, self._filled_at = self._shared.read()
            now = time.monotonic()
            self._tokens = min(self.rate, self._tokens + (now - self._filled_at) * self.rate) - size
            self._filled_at = now
            if self._shared is not None:
                self._shared.write(self._tokens, now)
            # Whoever comes later waits for the debts of all before.
            until = now - self._tokens / self.rate
        while (left := until - time.monotonic()) > 0 and not self._lifted:
            pause(min(left, _STEP_S))


class _Shared:
    """The state of a bucket in memory that processes share. The block of `with` holds the lock against the others.

    The system takes the lock away from a process that dies. Within a process, the bucket has a lock of its own.
    """

    def __init__(self, tokens: float, filled_at: float) -> None:
        self._file = os.memfd_create("pitr-rate")
        os.ftruncate(self._file, _STATE.size)
        self._memory = mmap.mmap(self._file, _STATE.size)
        self.write(tokens, filled_at)

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __del__(self) -> None:
        os.close(self._file)

    def read(self) -> tuple[float, float]:
        tokens, filled_at = _STATE.unpack_from(self._memory)
        return tokens, filled_at

    def write(self, tokens: float, filled_at: float) -> None:
        _STATE.pack_into(self._memory, 0, tokens, filled_at)


_limit: RateLimit | None = None


def spend(size: int) -> None:
    """Count `size` bytes of disk data that this thread is going to move, and wait if there is a limit."""
    if _limit is not None:
        _limit.spend(size)


def is_limited() -> bool:
    """Return whether this process has a limit."""
    return _limit is not None


def share() -> None:
    """Let processes that are forked from now on count into the limit of this one."""
    if _limit is not None:
        _limit.share()


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
