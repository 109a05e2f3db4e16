# SPDX-License-Identifier: GPL-2.0-or-later
"""The threads of a replication: those that copy objects, and those that read ahead for them.

An error or a signal in the main thread cancels the work of all.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pitr.repository.store import ReadsInto, StoredFile
from pitr.system.cancellation import Cancellation, Cancelled, cancelled_by

T = TypeVar("T")

#: How much of an object is read at once, and how many such reads run ahead of the one that is written.
CHUNK: Final = 4 << 20
_AHEAD: Final = 3
_LOCAL_CHUNK: Final = 256 << 10


class Team:
    """Copies up to `workers` objects at once. Use it as a context manager: the end of the block ends the threads."""

    def __init__(self, workers: int) -> None:
        self._cancellation = Cancellation()
        self._copies = ThreadPoolExecutor(workers, thread_name_prefix="replicate")
        self._reads = ThreadPoolExecutor(2 * workers, thread_name_prefix="read-ahead")

    def start(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start `work` in one of the threads that copy."""
        return self._started(self._copies, work, *arguments)

    def ask(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start a short request, which must not wait for the copies before it."""
        return self._started(self._reads, work, *arguments)

    def chunks(self, file: StoredFile) -> Generator[bytes | memoryview, None, None]:
        """Yield the bytes of an open object in order; each chunk is valid until the next one.

        The iterator must come to its end, or be closed.
        """
        if isinstance(file, ReadsInto):
            yield from self._local_chunks(file, file.size)
            return
        ahead: deque[Future[bytes]] = deque()
        offset = 0
        try:
            while ahead or offset < file.size:
                while offset < file.size and len(ahead) < _AHEAD:
                    length = min(CHUNK, file.size - offset)
                    ahead.append(self._started(self._reads, file.read_at, offset, length))
                    offset += length
                self.check()
                yield ahead.popleft().result()
        finally:
            for read in ahead:
                read.cancel()
            # The caller closes the file.
            wait(ahead)

    def _local_chunks(self, file: ReadsInto, size: int) -> Generator[memoryview, None, None]:
        # One buffer that stays in the processor's cache.
        buffer = memoryview(bytearray(min(_LOCAL_CHUNK, size)))
        offset = 0
        while got := file.read_into(offset, buffer[: size - offset]):
            offset += got
            yield buffer[:got]
            self.check()

    def check(self) -> None:
        """Raise Cancelled if the work is cancelled."""
        if self._cancellation.is_cancelled():
            raise Cancelled("the work was cancelled")

    def _started(self, pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> Future[T]:
        # The lines that the thread logs name the same VM as those of the caller.
        context = contextvars.copy_context()

        def run() -> T:
            with cancelled_by(self._cancellation):
                return context.run(work, *arguments)

        return pool.submit(run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if error is not None:
            self._cancellation.cancel()
        for pool in (self._copies, self._reads):
            pool.shutdown(wait=True, cancel_futures=error is not None)
