# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait for the engine, with a timeout and interruptible at any moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

#: The shortest pause, so that pitr notices quick changes quickly.
_SHORTEST_S = 0.05


def pauses(timeout_s: float, longest_s: float) -> Iterator[bool]:
    """Yield now and after each pause until `timeout_s` has passed: False, and True the last time.

    Each pause is a quarter of the time waited so far, at most `longest_s`. So pitr notices a change at most a quarter
    late, and asks the engine two dozen times in the first ten seconds. The last time is the deadline itself, so that
    pitr still notices a change just before it.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    while True:
        now = time.monotonic()
        left = deadline - now
        yield left <= 0
        if left <= 0:
            return
        time.sleep(min(max(_SHORTEST_S, (now - began) / 4), longest_s, left))
