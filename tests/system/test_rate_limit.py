# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit of the data that a process moves in a second."""

from __future__ import annotations

import os
import threading
import time

import pytest

from pitr.errors import UsageError
from pitr.system import rate_limit
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by
from pitr.system.rate_limit import RateLimit
from pitr.units import parse_rate

MiB = 1 << 20


def test_all_threads_share_one_limit_whose_bucket_holds_a_second() -> None:
    started = time.monotonic()
    with rate_limit.limited(10 * MiB):
        assert rate_limit.is_limited()

        def move() -> None:
            for _ in range(10):
                rate_limit.spend(MiB // 2)

        threads = [threading.Thread(target=move) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # 20 MiB at 10 MiB a second, the first second's from the full bucket.
    assert 0.95 <= time.monotonic() - started < 3
    assert not rate_limit.is_limited()


def test_one_large_piece_waits_as_long_as_many_small_ones() -> None:
    started = time.monotonic()
    with rate_limit.limited(10 * MiB):
        rate_limit.spend(20 * MiB)
    assert 0.95 <= time.monotonic() - started < 3


def test_a_cancellation_ends_the_wait() -> None:
    cancellation = Cancellation()
    threading.Timer(0.2, cancellation.cancel).start()
    started = time.monotonic()
    with rate_limit.limited(1), cancelled_by(cancellation), pytest.raises(Cancelled):
        rate_limit.spend(1000)
    assert time.monotonic() - started < 5


def test_without_a_limit_nothing_waits() -> None:
    started = time.monotonic()
    with rate_limit.limited(None):
        for _ in range(1000):
            rate_limit.spend(1 << 40)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("text", "rate"),
    [("5M", 5 * MiB), ("100m", 100 * MiB), ("1 GiB/s", 1 << 30), ("512", 512), ("64kB", 65536)],
)
def test_rates_are_read_as_people_type_them(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-5M", "fast", "5X", "1.5M", "5M/h"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_rate(text)
    assert "--limit-rate 5M" in raised.value.advice


def test_processes_count_into_one_limit() -> None:
    limit = RateLimit(1)
    limit.share()
    child = os.fork()
    if child == 0:
        # It does not wait for the debt that it leaves.
        limit.lift()
        limit.spend(10_000)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    limit.lift()
    limit.spend(1)
    assert -10_001 <= limit.tokens < -9_000
