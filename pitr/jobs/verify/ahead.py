# SPDX-License-Identifier: GPL-2.0-or-later
"""Read several objects at once and use the results in order. A store that is far away answers many requests at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: How many results wait for each thread.
_AHEAD = 2


def read_ahead(
    read: Callable[[T], R], items: Iterable[T], threads: int, *, stop: Callable[[], object] | None = None
) -> Iterator[R]:
    """Yield `read` of each item in order, and call it in so many threads a little ahead; with one, when it is needed.

    Raises what `read` raises, in the place of its result. `stop` is called at the end, also after an error: it shortens
    calls of `read` whose results are not needed any more.
    """
    if threads <= 1:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            if stop is not None:
                stop()
