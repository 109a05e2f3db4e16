# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Callable

import pytest

from pitr.system.cancellation import Cancellation, cancelled_by, is_cancelled
from pitr.system.retry import LONGEST_PAUSE_S, RETRIES, retrying


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def operation() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return operation, calls


def test_transient_failures_are_retried_after_growing_pauses() -> None:
    pauses: list[float] = []
    told: list[tuple[Exception, float]] = []
    operation, calls = failing(RETRIES, OSError("reset"))
    result = retrying(
        operation,
        transient=lambda error: True,
        sleep=pauses.append,
        on_retry=lambda error, pause: told.append((error, pause)),
    )
    assert result == "done"
    assert len(calls) == RETRIES + 1
    for pause, base in zip(pauses, (0.5, 1, 2, 4, 8), strict=True):
        assert base <= pause <= base + 0.25
    assert max(pauses) <= LONGEST_PAUSE_S + 0.25
    assert [pause for _, pause in told] == pauses


def test_the_last_failure_is_raised_unchanged() -> None:
    error = OSError("reset")
    operation, calls = failing(99, error)
    with pytest.raises(OSError) as raised:
        retrying(operation, transient=lambda error: True, sleep=lambda pause: None)
    assert raised.value is error
    assert len(calls) == RETRIES + 1


def test_other_failures_are_final() -> None:
    operation, calls = failing(99, ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        retrying(operation, transient=lambda error: isinstance(error, OSError), sleep=lambda pause: None)
    assert len(calls) == 1


def test_an_exception_of_the_pause_ends_the_retries() -> None:
    def interrupted(pause: float) -> None:
        raise KeyboardInterrupt

    operation, calls = failing(99, OSError("reset"))
    with pytest.raises(KeyboardInterrupt):
        retrying(operation, transient=lambda error: True, sleep=interrupted)
    assert len(calls) == 1


def test_a_thread_knows_that_its_work_is_cancelled() -> None:
    stopped = Cancellation()
    with cancelled_by(stopped):
        assert not is_cancelled()
        stopped.cancel()
        assert is_cancelled()
    assert not is_cancelled()
