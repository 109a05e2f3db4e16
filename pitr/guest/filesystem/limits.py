# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounds for libraries that work on what an attacker may have written: processor time and memory."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

#: For one step: to list the next entry, to look at a file, to read a piece. A healthy one takes milliseconds.
STEP_CPU_S = 30.0
#: What reading a file system may take beyond what the process has already, in bytes.
MEMORY = 2 << 30


_handled = False


class EndlessError(Exception):
    """A step took more processor time than any file system that is whole would ask for."""


@contextmanager
def bounded_step(seconds: float = STEP_CPU_S) -> Iterator[None]:
    """Raise EndlessError in the block when it takes that much processor time; only in the main thread.

    Time spent waiting for storage does not count. One step is not to be put into another.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _handled  # noqa: PLW0603 - a process has one handler; to set it for each step costs more than the step
    if not _handled:
        signal.signal(signal.SIGVTALRM, _stop)
        _handled = True
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise EndlessError("it seems to have no end")


@contextmanager
def bounded_memory(beyond: int = MEMORY) -> Iterator[None]:
    """While the block runs, memory that the process would take beyond this raises MemoryError instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _taken() + beyond
    if soft != resource.RLIM_INFINITY and soft <= limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def unbounded_memory() -> Iterator[None]:
    """For work of pitr's own inside of `bounded_memory`: what it takes and keeps is allowed on top."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = _taken()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        yield
    finally:
        if soft != resource.RLIM_INFINITY:
            soft += max(0, _taken() - before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _taken() -> int:
    """The address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
