# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the points of a repository with a lock are still protected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pitr import times
from pitr.jobs.status.vm_status import State
from pitr.jobs.upkeep.protect import LeastProtected, least_protected, slack_of
from pitr.model import VMName, known_name
from pitr.repository import Repository
from pitr.repository.store.lock_rules import Lock
from pitr.text import printable


@dataclass(frozen=True, slots=True)
class ProtectionStatus:
    """The least time that an object of a point is still protected. `advice` says what to do if it is too short."""

    lock: Lock
    least: LeastProtected
    left: timedelta
    state: State
    words: str
    advice: str

    def as_document(self) -> dict[str, Any]:
        """Return the status for JSON."""
        vm, until = self.least.vm, self.least.until
        return {
            **self.lock.as_document(),
            "until": times.to_text(until) if until is not None else None,
            "left_s": max(0, int(self.left.total_seconds())),
            "object": self.least.name,
            "vm": {"id": vm.id, "name": known_name(vm.name)} if vm is not None else None,
        }


def protection_status(
    repository: Repository, vms: Sequence[VMName], now: datetime, *, ask: bool = False
) -> ProtectionStatus | None:
    """Return how long the points of these VMs are protected; None for a repository without a lock.

    `ask` the store about each object, also about those that this host knows. Raises RepositoryError.
    """
    if repository.lock is None:
        return None
    least = least_protected(repository, vms, ask=ask)
    if least is None:
        return None
    left = least.until - now if least.until is not None else timedelta()
    of = f" (VM {printable(least.vm.name)})" if least.vm is not None else ""
    short = left < slack_of(repository)
    words = (
        f"all points are protected for at least {times.duration(left.total_seconds())}{of}"
        if left > timedelta()
        else f"{least.name}{of} is not protected"
    )
    return ProtectionStatus(
        repository.lock,
        least,
        left,
        State.WARNING if short else State.OK,
        words,
        "Run 'pitr protect', or 'pitr prune' regularly." if short else "",
    )
