# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the engine's long operations in threads, and end all threads together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("pitr.lab.engine")


class EngineStopping(Exception):
    """The engine shuts down, so waiting threads must end."""


class EngineThreads:
    """Starts threads and waits for them at the end. `failures` keeps their errors."""

    def __init__(self) -> None:
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread. After close() it starts nothing."""
        thread = threading.Thread(target=self._run, args=(name, work), name=f"lab {name}", daemon=True)
        with self._lock:
            if self.closing:
                return
            self._threads = [known for known in self._threads if known.is_alive()]
            self._threads.append(thread)
            thread.start()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`; raises Closing as soon as the engine shuts down."""
        if self._closing.wait(seconds):
            raise EngineStopping

    def close(self, wake: Callable[[], None]) -> None:
        """End and join all threads. `wake` must wake threads that wait for other events."""
        with self._lock:
            self._closing.set()
            threads = list(self._threads)
        wake()
        for thread in threads:
            thread.join()

    def _run(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except EngineStopping:
            return
        except Exception as error:
            if not self.closing:
                log.exception("%s failed", name)
                self.failures.append(error)
