# SPDX-License-Identifier: GPL-2.0-or-later
"""The types of the callbacks through which a job reports its progress, and the VM that a thread works for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Notify = Callable[[str], None]
"""Called with one line for the user while the job runs."""

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total bytes known so far, from any thread, one call at a time."""


@dataclass(frozen=True, slots=True)
class DocumentList:
    """A list in a JSON document whose items are made while it is written, because there can be millions."""

    make: Callable[[], Iterator[dict[str, Any]]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.make()


#: The name of the VM that the thread works for. Each line of the log has it.
_vm: ContextVar[str | None] = ContextVar("vm", default=None)


@contextmanager
def about_vm(name: str | None) -> Iterator[None]:
    """Let the lines that this thread logs in the block name the VM. A new thread needs a copy of the context."""
    token = _vm.set(name)
    try:
        yield
    finally:
        _vm.reset(token)


def now_about_vm(name: str) -> None:
    """Do the same up to the end of the enclosing block of `about_vm`."""
    _vm.set(name)


def current_vm() -> str | None:
    """Return the name of the VM that this thread works for."""
    return _vm.get()
