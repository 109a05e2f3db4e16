# SPDX-License-Identifier: GPL-2.0-or-later
"""The point that --at and --point name, and what a person is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pitr import times
from pitr.errors import UsageError

if TYPE_CHECKING:
    from pitr.jobs.choosing import Choice
    from pitr.repository import Repository


def choose(repository: Repository, what: str, vm: str | None, at: str | None, point: str | None) -> Choice:
    """Find the point; `what` names the command for people ("a restore"). Raises UsageError, NoSuchPoint, NoSuchVM."""
    from pitr.jobs import choosing

    if (at is None) == (point is None):
        raise UsageError(
            f"{what} needs one of --at and --point",
            "Write --at 2020-06-30T22:00, or --point with an id of 'pitr list'.",
        )
    time = times.parse_at(at) if at is not None else None
    choice = choosing.point_of(repository, vm, point, time)
    if time is not None:
        choosing.check_none_lost(repository, choice.backup, time)
    return choice


def in_words(choice: Choice) -> str:
    """Which point it is, its age at the time asked for, and the next later one."""
    backup = choice.backup
    age = f", {times.duration(choice.age_s)} before the time asked for" if choice.age_s else ""
    later = f"; the next later point is of {times.for_people(choice.next_point)}" if choice.next_point else ""
    return f"VM {backup.vm.name}: the point of {times.for_people(backup.point)} (backup {backup.backup_id}){age}{later}"
