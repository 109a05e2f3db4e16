# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of processor time and memory for libraries that read data an attacker may have written."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

#: The limit for one step: list an entry, read a node, read a piece. Normally a step takes milliseconds.
STEP_CPU_S = 30.0
#: How much memory reading a file system may take beyond what the process has already, in bytes.
MEMORY = 2 << 30


_handled = False


class EndlessError(Exception):
    """A step took more processor time than an undamaged file system needs."""


@contextmanager
def bounded_step(seconds: float = STEP_CPU_S) -> Iterator[None]:
    """Raise EndlessError in the block after that much processor time. It works only in the main thread.

    Time spent waiting for storage does not count. Steps cannot be nested.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _handled  # noqa: PLW0603 - a process has one handler; setting it costs more than the step
    if not _handled:
        signal.signal(signal.SIGVTALRM, _stop)
        _handled = True
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise EndlessError("it does not seem to end")


@contextmanager
def bounded_memory(beyond: int = MEMORY) -> Iterator[None]:
    """Raise MemoryError inside the block when the process would grow by more than `beyond` bytes."""
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
    """Lift the limit of `bounded_memory` for pitr's own work. Memory that it keeps raises the limit."""
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
    """Return the address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
