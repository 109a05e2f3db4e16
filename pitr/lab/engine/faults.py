# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that a test injects: wrong answers, lost connections, pauses, failing operations."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

#: Operations that a test can make fail. "configuration": the engine omits a VM's OVF once. "bitmap": the host does not
#: find the bitmaps of a backup's first disk, but the engine calls the disk incremental. "transfer start": the host
#: cannot open the disk, so the engine stops the transfer as its policy says.
Happening = Literal[
    "backup start",
    "bitmap",
    "snapshot removal",
    "upload verification",
    "disk creation",
    "disk copy",
    "configuration",
    "transfer start",
]


@dataclass(slots=True)
class Rule:
    """The fault for the next `times` requests that match."""

    method: re.Pattern[str]
    path: re.Pattern[str]
    times: int
    kind: Literal["answer", "drop", "stall"]
    status: int = 0
    body: str = ""
    content_type: str = "application/xml"
    handled: bool = False
    seconds: float = 0.0


class Faults:
    """The faults that have not happened yet, oldest first. Several threads can use it."""

    def __init__(self, expire_tokens: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._failing: dict[str, int] = {}
        self._expire_tokens = expire_tokens

    def next(
        self,
        method: str,
        path: str,
        *,
        status: int,
        body: str = "",
        content_type: str = "application/xml",
        times: int = 1,
        handled: bool = False,
    ) -> None:
        """Answer the next `times` requests whose method and path match the regular expressions with `status`.

        The path has no query. `handled`: the engine executes the request first, then sends the wrong answer.
        """
        self._add(
            Rule(_whole(method), re.compile(path), times, "answer", status, body, content_type, handled)
        )

    def drop_connection(self, method: str, path: str, *, times: int = 1, handled: bool = False) -> None:
        """Close the connection instead of answering. `handled`: the engine executes the request first."""
        self._add(Rule(_whole(method), re.compile(path), times, "drop", handled=handled))

    def stall(self, seconds: float, method: str = ".*", path: str = "", *, times: int = 1) -> None:
        """Delay the next `times` requests that match by `seconds`."""
        self._add(Rule(_whole(method), re.compile(path), times, "stall", seconds=seconds))

    def expire_tokens(self) -> None:
        """Make all tokens invalid: the next request of every client gets a 401."""
        self._expire_tokens()

    def fail(self, happening: Happening, times: int = 1) -> None:
        """Make the next `times` runs of an operation fail on the host, after the engine accepted the request."""
        with self._lock:
            self._failing[happening] = self._failing.get(happening, 0) + times

    def clear(self) -> None:
        """Remove all faults that have not happened yet."""
        with self._lock:
            self._rules.clear()
            self._failing.clear()

    def take(self, method: str, path: str) -> Rule | None:
        """Return the first rule that matches the request, and count its use."""
        with self._lock:
            for rule in self._rules:
                if rule.method.search(method) and rule.path.search(path):
                    rule.times -= 1
                    if rule.times <= 0:
                        self._rules.remove(rule)
                    return rule
        return None

    def happens(self, happening: Happening) -> bool:
        """Return whether an operation must fail now, and count the failure."""
        with self._lock:
            left = self._failing.get(happening, 0)
            self._failing[happening] = max(0, left - 1)
            return left > 0

    def _add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)


def _whole(method: str) -> re.Pattern[str]:
    return re.compile(f"^(?:{method})$", re.IGNORECASE)
