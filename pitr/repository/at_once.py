# SPDX-License-Identifier: GPL-2.0-or-later
"""Read many small objects of a distant store: several requests are under way at once, the results come in order."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TypeVar

from pitr.repository.store import Store
from pitr.system.cancellation import Cancellation, cancelled_by, current_cancellation

T = TypeVar("T")
U = TypeVar("U")
#: How often a wait looks for signals.
_LOOK_S = 0.5


def reads_at_once(store: Store) -> int:
    """Return how many reads of a store should be under way at once; 1 for files, whose reads are quick."""
    return int(getattr(store, "reads_at_once", 1))


def each_in_order(
    items: Iterable[T], work: Callable[[T], U], at_once: int
) -> Generator[Callable[[], U], None, None]:
    """Yield the outcome of `work` for each item, in order: a call returns its result, or raises its error.

    At most `at_once` items are under way, or done and not taken. The end of the iterator ends its threads.
    """
    if at_once <= 1:
        for item in items:
            yield lambda item=item: work(item)  # type: ignore[misc]
        return
    cancellation, outer = Cancellation(), current_cancellation()

    def begun(pool: ThreadPoolExecutor, item: T) -> Future[U]:
        context = contextvars.copy_context()

        def run() -> U:
            with cancelled_by(cancellation):
                return context.run(work, item)

        return pool.submit(run)

    def outcome(future: Future[U]) -> Callable[[], U]:
        while not wait((future,), _LOOK_S).done:
            pass
        return future.result

    with ExitStack() as stack:
        if outer is not None:
            outer.add(cancellation.cancel)
            stack.callback(outer.discard, cancellation.cancel)
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="read")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        # First: whoever leaves early waits for no request.
        stack.callback(cancellation.cancel)
        window: deque[Future[U]] = deque()
        for item in items:
            window.append(begun(pool, item))
            if len(window) >= at_once:
                yield outcome(window.popleft())
        while window:
            yield outcome(window.popleft())
