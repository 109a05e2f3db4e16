# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that a test asks the engine for: wrong answers, lost connections, pauses, failing operations."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

#: Operations that can be told to fail. "configuration": a VM's OVF is absent for once; "bitmap": the host does not
#: find the bitmaps of the first disk of a backup, though the engine calls that disk incremental.
Happening = Literal[
    "backup start", "bitmap", "snapshot removal", "upload verification", "disk creation", "configuration"
]


@dataclass(slots=True)
class Rule:
    """What happens to the next `times` requests that fit."""

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
    """The faults that wait for their request, oldest first. Safe for many threads."""

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
        """Answer the next `times` requests whose method and path fit the regular expressions with `status`.

        The path is without its query; `handled`: the request is carried out first, then answered wrongly.
        """
        self._add(
            Rule(_whole(method), re.compile(path), times, "answer", status, body, content_type, handled)
        )

    def drop_connection(self, method: str, path: str, *, times: int = 1, handled: bool = False) -> None:
        """Close the connection instead of an answer; `handled`: the request is carried out first."""
        self._add(Rule(_whole(method), re.compile(path), times, "drop", handled=handled))

    def stall(self, seconds: float, method: str = ".*", path: str = "", *, times: int = 1) -> None:
        """Let the next `times` requests that fit wait for `seconds` before they are looked at."""
        self._add(Rule(_whole(method), re.compile(path), times, "stall", seconds=seconds))

    def expire_tokens(self) -> None:
        """Make all tokens invalid: the next request of every client gets a 401."""
        self._expire_tokens()

    def fail(self, happening: Happening, times: int = 1) -> None:
        """Let the next `times` of an operation fail on the host, after the request was accepted."""
        with self._lock:
            self._failing[happening] = self._failing.get(happening, 0) + times

    def clear(self) -> None:
        """Forget all faults that have not happened."""
        with self._lock:
            self._rules.clear()
            self._failing.clear()

    def take(self, method: str, path: str) -> Rule | None:
        """The first rule that fits the request, used up once."""
        with self._lock:
            for rule in self._rules:
                if rule.method.search(method) and rule.path.search(path):
                    rule.times -= 1
                    if rule.times <= 0:
                        self._rules.remove(rule)
                    return rule
        return None

    def happens(self, happening: Happening) -> bool:
        """Whether an operation is to fail now; uses one failure up."""
        with self._lock:
            left = self._failing.get(happening, 0)
            self._failing[happening] = max(0, left - 1)
            return left > 0

    def _add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)


def _whole(method: str) -> re.Pattern[str]:
    return re.compile(f"^(?:{method})$", re.IGNORECASE)
