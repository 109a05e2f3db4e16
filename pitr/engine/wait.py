# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for the engine: always with an end, and interruptible at any moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

#: The first pause. Pauses double from here, so that what is quick is seen quickly.
_SHORTEST_S = 0.05


def pauses(timeout_s: float, longest_s: float) -> Iterator[bool]:
    """Yield at once, then after each pause, until `timeout_s` have passed: False, and True the last time.

    The pauses grow to `longest_s`. The last time comes at the deadline itself: a state that was reached just
    in time is still seen.
    """
    deadline = time.monotonic() + timeout_s
    pause = min(_SHORTEST_S, longest_s)
    while True:
        left = deadline - time.monotonic()
        yield left <= 0
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 2, longest_s)
