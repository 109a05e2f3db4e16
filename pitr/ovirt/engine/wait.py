# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for the engine: always with an end, and interruptible at any moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

#: The shortest pause: what is quick is seen quickly.
_SHORTEST_S = 0.05


def pauses(timeout_s: float, longest_s: float) -> Iterator[bool]:
    """Yield at once, then after each pause, until `timeout_s` have passed: False, and True the last time.

    The pauses grow to `longest_s`, each to a quarter of the time waited: so a state is seen at most a quarter later
    than it came, and an engine is asked two dozen times in the first ten seconds. The last time comes at the
    deadline itself: a state that was reached just in time is still seen.
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
