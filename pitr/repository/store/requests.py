# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits for requests to an object store that a signal or a cancellation ends at once.

The requests run in the event loop of one thread. A caller waits for its request in its own thread: Python's own waits
end when a signal handler raises, and a cancellation of the work cancels the request.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from pitr.system.cancellation import Cancelled, current_cancellation, is_cancelled
from pitr.system.closing import Closes

T = TypeVar("T")
#: How often a wait looks for signals.
_LOOK_S = 0.5


class Requests(Closes):
    """Runs requests of any thread. It starts its thread with the first request; `close` ends it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, request: Coroutine[Any, Any, T]) -> T:
        """Run `request` to its end and return its result. Raises Cancelled, and the errors of the request."""
        return self.wait(self.start(request))

    @staticmethod
    def wait(future: concurrent.futures.Future[T]) -> T:
        """Return the result of a started request, as `run` does."""

        def cancel() -> None:
            future.cancel()

        cancellation = current_cancellation()
        if cancellation is not None:
            cancellation.add(cancel)
        try:
            # A signal that comes just before a wait begins does not end it: Python looks after its end. So look often.
            while not concurrent.futures.wait((future,), _LOOK_S).done:
                pass
            return future.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            if is_cancelled():
                raise Cancelled("the work was cancelled") from None
            raise
        finally:
            # After a signal or an error of this thread, nobody waits for the answer.
            future.cancel()
            if cancellation is not None:
                cancellation.discard(cancel)

    def start(self, request: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `request`, whose result the caller takes later."""
        return asyncio.run_coroutine_threadsafe(request, self._running())

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancelled_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _cancelled_others() -> None:
    # A request that nobody waits for any more would answer a closed loop, and the library prints such errors.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
