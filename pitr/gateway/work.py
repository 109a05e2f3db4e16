# SPDX-License-Identifier: GPL-2.0-or-later
"""The threads of the gateway: a limited number for streams, and a few for short requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pitr.errors import PitrError
from pitr.gateway.channel import ClientGone
from pitr.gateway.failures import TooManyRequests
from pitr.reporting import Notify
from pitr.system import rate_limit
from pitr.system.closing import Closes
from pitr.text import printable

T = TypeVar("T")

_log = logging.getLogger(__name__)

_QUICK = 4

Stop = Callable[[PitrError | None], None]


class BlockingWork(Closes):
    """Runs blocking work in threads. Call all its methods but `close` in the event loop.

    `max_streams` limits the number of streams, `client_timeout_s` how long a client may be idle, in seconds. The
    threads stay the same, because each holds a connection to the engine.
    """

    def __init__(self, *, max_streams: int, client_timeout_s: float, notify: Notify) -> None:
        self.client_timeout_s = client_timeout_s
        self.notify = notify
        self._max_streams = max_streams
        self._streams = 0
        self._stops: set[Stop] = set()
        self._stopping = False
        self._threads = ThreadPoolExecutor(max_streams, thread_name_prefix="stream")
        self._quick = ThreadPoolExecutor(_QUICK, thread_name_prefix="request")

    def check_free(self) -> None:
        """Raise TooManyRequests when no further stream is allowed."""
        if self._stopping:
            raise TooManyRequests("the gateway is stopping")
        if self._streams >= self._max_streams:
            raise TooManyRequests(f"all {self._streams} streams are in use", "Try again when one has ended.")

    def start_stream(self, run: Callable[[], None], stop: Stop) -> asyncio.Future[None]:
        """Run the job of a stream, which handles its own errors. `stop` makes the job give up."""
        self._streams += 1
        self._stops.add(stop)
        done = asyncio.get_running_loop().run_in_executor(self._threads, run)

        def ended(_: asyncio.Future[None]) -> None:
            self._streams -= 1
            self._stops.discard(stop)

        done.add_done_callback(ended)
        return done

    async def quick(self, operation: Callable[[], T]) -> T:
        """Run an operation that is short and not a stream."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, operation)

    def report(self, name: str, error: BaseException) -> PitrError:
        """Report a failed request to the log, and return the error for its client."""
        if not isinstance(error, PitrError):
            _log.error("%s", name, exc_info=error)
            error = PitrError(f"a defect in pitr: {type(error).__name__}", "See the gateway's log.")
        notes = "".join(f" {printable(note)}" for note in getattr(error, "__notes__", ()))
        self.notify(f"{name}: {error.message}{notes}")
        return error

    def stop(self) -> None:
        """End all streams as if their clients had disconnected, and start no more."""
        self._stopping = True
        rate_limit.lift()
        for stop in list(self._stops):
            stop(ClientGone("the gateway is stopping"))

    def close(self) -> None:
        """Wait until all jobs have ended."""
        self._threads.shutdown(wait=True)
        self._quick.shutdown(wait=True)
