# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that hold for all callers of a scheduler: so many tasks at the same time on a worker, a storage domain, an
engine, a repository. A task takes all of its limits together or none, so that two tasks never wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pitr.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client, Semaphore

#: What a limit can be about, as --cap names it. Each worker has its slots besides.
KINDS: Final = ("host", "storage-domain", "engine", "repository")


@dataclass(frozen=True, slots=True, order=True)
class Cap:
    """At most `most` tasks at the same time that are about the thing with this name."""

    name: str
    most: int


def parse(texts: Sequence[str]) -> dict[str, int]:
    """Parse NAME=N. Raises UsageError."""
    found = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in KINDS or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--cap {text!r} is not NAME=N", f"NAME is one of: {', '.join(KINDS)}.")
        found[name] = int(number)
    return found


class Caps:
    """The limits of a scheduler, as semaphores that it keeps. Leases of a caller that dies end by themselves."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._semaphores: dict[Cap, Semaphore] = {}

    def take(self, caps: Sequence[Cap]) -> bool:
        """Take one of each, or none. Return whether they were taken."""
        taken: list[Cap] = []
        for cap in sorted(set(caps)):
            if not self._semaphore(cap).acquire(timeout=0):
                self.give_back(taken)
                return False
            taken.append(cap)
        return True

    def give_back(self, caps: Sequence[Cap]) -> None:
        """Give back what `take` has taken."""
        for cap in set(caps):
            # A scheduler that is gone has no leases any more.
            with suppress(Exception):
                self._semaphore(cap).release()

    def _semaphore(self, cap: Cap) -> Any:
        from distributed import Semaphore  # noqa: PLC0415 - an extra

        with self._lock:
            if cap not in self._semaphores:
                # Callers with another number have a limit of their own.
                self._semaphores[cap] = Semaphore(
                    max_leases=cap.most,
                    name=f"pitr {cap.name} {cap.most}",
                    scheduler_rpc=self._client.scheduler,
                    loop=self._client.loop,
                )
            return self._semaphores[cap]
