# SPDX-License-Identifier: GPL-2.0-or-later
"""Retries of operations that fail for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import tenacity

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

    def is_transient(error: BaseException) -> bool:
        return isinstance(error, Exception) and transient(error)

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if on_retry is not None and isinstance(error, Exception):
            on_retry(error, state.upcoming_sleep)

    growing = tenacity.wait_exponential(multiplier=first_pause_s, max=longest_pause_s)
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=growing + tenacity.wait_random(0, first_pause_s / 2),
        sleep=sleep,
        before_sleep=report,
        reraise=True,
    )
    return retry(operation)
