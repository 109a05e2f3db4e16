# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that tries something again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import tenacity

T = TypeVar("T")

#: How often something is tried again after the first failure.
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
    """Call `operation` until it returns, and return what it returns.

    An exception for which `transient` is true leads to another call, up to `retries` of them, after pauses
    (seconds) that double from `first_pause_s` to `longest_pause_s`, plus a little at random, so that workers
    which failed together do not come back together. `on_retry` is told the exception and the pause before it
    begins. Any other exception, the last one, KeyboardInterrupt and whatever `sleep` raises come out as they
    are.
    """

    def is_transient(error: BaseException) -> bool:
        return isinstance(error, Exception) and transient(error)

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if on_retry is not None and isinstance(error, Exception):
            on_retry(error, state.upcoming_sleep)

    growing = tenacity.wait_exponential(multiplier=first_pause_s, max=longest_pause_s)
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=growing + tenacity.wait_random(0, first_pause_s / 2),
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )
    return retry(operation)
