# SPDX-License-Identifier: GPL-2.0-or-later
"""The point that --at and --point name, and what a person is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pitr import times
from pitr.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from pitr.jobs.find import Choice
    from pitr.repository import Repository


@dataclass(frozen=True, slots=True)
class Asked:
    """What --at and --point say: one of them is given."""

    time: datetime | None
    point: str | None

    def find(self, repository: Repository, vm: str | None, *, check_lost: bool = True) -> Choice:
        """Find the point. Raises UsageError, NoSuchPoint, NoSuchVM and, with `check_lost`, StoredDamage."""
        from pitr.jobs import find

        return find.point_of(repository, vm, self.point, self.time, check_lost=check_lost)


def exactly_one(what: str, at: str | None, point: str | None) -> Asked:
    """Check that one is given; `what` names the command for people ("a restore"). Raises UsageError."""
    asked = at_most_one(at, point)
    if asked is None:
        raise UsageError(
            f"{what} needs one of --at and --point",
            "Write --at 2020-06-30T22:00, or --point with an id of 'pitr list'.",
        )
    return asked


def at_most_one(at: str | None, point: str | None) -> Asked | None:
    """Check that not both are given; None for neither. Raises UsageError."""
    if at is None and point is None:
        return None
    if at is not None and point is not None:
        raise UsageError(
            "--at and --point exclude each other", "Name the point by its time or by its id, not by both."
        )
    return Asked(times.parse_at(at) if at is not None else None, point)


def since(repository: Repository, text: str, chosen: Choice) -> Choice:
    """The point of the same VM that --since names, by a time or else an id. Raises UsageError, NoSuchPoint."""
    from pitr.jobs import find

    vm = chosen.backup.vm
    try:
        time = times.parse_at(text)
    except UsageError:
        if not all(char in "0123456789abcdefABCDEF-" for char in text):
            raise
        return find.point_with_id(repository, text, vm)
    return find.point_of(repository, vm.id, None, time)


def in_words(choice: Choice) -> str:
    """Which point it is, its age at the time asked for, and the next later one."""
    backup = choice.backup
    age = f", {times.duration(choice.age_s)} before the time asked for" if choice.age_s else ""
    later = f"; the next later point is of {times.for_people(choice.next_point)}" if choice.next_point else ""
    return f"VM {backup.vm.name}: the point of {times.for_people(backup.point)} (backup {backup.backup_id}){age}{later}"
