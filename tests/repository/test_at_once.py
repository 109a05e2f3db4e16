# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a bucket are read several at once; their order, errors and cancellations stay as with one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pitr.repository.at_once import each_in_order, reads_at_once
from pitr.repository.store.posix import PosixStore
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by, pause
from tests.support import s3


def _outcomes(work: Callable[[int], int], at_once: int) -> list[object]:
    found: list[object] = []
    for outcome in each_in_order(range(20), work, at_once):
        try:
            found.append(outcome())
        except ValueError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("at_once", [1, 4])
def test_results_and_errors_come_in_order(at_once: int) -> None:
    def work(item: int) -> int:
        if item % 7 == 3:
            raise ValueError(f"no {item}")
        return item * item

    assert _outcomes(work, at_once) == [f"no {item}" if item % 7 == 3 else item * item for item in range(20)]


def test_so_many_are_under_way_at_once_and_no_more() -> None:
    barrier = threading.Barrier(4, timeout=60)
    lock, now, most = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        # Nobody goes on before four are here.
        barrier.wait()
        with lock:
            now -= 1
        return item

    assert _outcomes(work, 4) == list(range(20))
    assert most == 4


def test_an_early_end_breaks_the_waits_of_what_is_under_way() -> None:
    ended: list[int] = []

    def work(item: int) -> int:
        if item == 0:
            return 0
        try:
            pause(3600)
        except Cancelled:
            ended.append(item)
            raise
        return item

    with closing(each_in_order(range(100), work, 4)) as outcomes:
        assert next(outcomes)() == 0
    assert set(ended) <= {1, 2, 3} and not [
        each for each in threading.enumerate() if each.name.startswith("read_")
    ]


def test_a_cancellation_of_the_caller_reaches_the_reads() -> None:
    cancellation = Cancellation()
    started = threading.Event()

    def work(item: int) -> int:
        started.set()
        pause(3600)
        return item

    def cancel() -> None:
        started.wait(60)
        cancellation.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with (
        cancelled_by(cancellation),
        closing(each_in_order(range(3), work, 2)) as outcomes,
        pytest.raises(Cancelled),
    ):
        next(outcomes)()
    canceller.join()


def test_only_distant_stores_are_read_so(tmp_path: Path) -> None:
    store = s3.memory_store(tmp_path / "state")
    assert reads_at_once(store) == 8
    store.close()
    posix = PosixStore(tmp_path)
    assert reads_at_once(posix) == 1
    posix.close()
