# SPDX-License-Identifier: GPL-2.0-or-later
"""Retries of operations that fail for a moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: How many attempts follow the first failure.
RETRIES: Final = 5
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 8.0


def retrying(
    operation: Callable[[], T],
    *,
    transient: Callable[[Exception], bool],
    retries: int = RETRIES,
    first_pause_s: float = FIRST_PAUSE_S,
    longest_pause_s: float = LONGEST_PAUSE_S,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[Exception, float], None] | None = None,
) -> T:
    """Call `operation` until it succeeds, and return its result.

    Retry up to `retries` times after an exception for which `transient` returns True. The pauses (seconds) double
    from `first_pause_s` to `longest_pause_s`. A random part keeps workers that failed together from retrying
    together. `on_retry` gets the exception and the length of the pause before the pause begins. Raises every other
    exception, the last one, and all exceptions of `sleep` unchanged.
    """

    pause_s = first_pause_s
    for _ in range(retries):
        try:
            return operation()
        except Exception as error:
            if not transient(error):
                raise
            wait_s = min(pause_s, longest_pause_s) + random.uniform(0, first_pause_s / 2)  # noqa: S311
            if on_retry is not None:
                on_retry(error, wait_s)
        # Outside of the handler: an exception of `sleep` is not about the failure.
        sleep(wait_s)
        pause_s *= 2
    return operation()
