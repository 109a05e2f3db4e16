# SPDX-License-Identifier: GPL-2.0-or-later
"""The point that --at or --point names, and the line that describes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pitr import times
from pitr.cli.display.output import Printer
from pitr.errors import UsageError
from pitr.jobs import asked_time, find, good_points
from pitr.jobs.asked_time import AskedTime
from pitr.jobs.complete_points import prefer_complete, warnings_of
from pitr.jobs.find import Choice
from pitr.jobs.good_points import GoodPoint
from pitr.reporting import Notify
from pitr.repository import Repository

#: A point is much nearer to a time than another one if its distance is at most one part of this many.
_MUCH_NEARER = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """The value of --at or of --point; the other is None."""

    time: AskedTime | None
    point: str | None
    newest_good: bool = False

    def find(
        self, repository: Repository, vm: str | None, disks: Sequence[str] = (), *, check_lost: bool = True
    ) -> Choice:
        """Find the point; a time prefers points that hold the `disks` (names or ids), or all disks if there are none.

        Raises UsageError, NoSuchPoint, NoSuchVM and, with `check_lost`, StoredDamage.
        """
        chosen = find.point_of(repository, vm, self.point, self.time, check_lost=check_lost)
        return prefer_complete(repository, chosen, disks)

    def find_good(self, repository: Repository, vm: str | None, wanted: GoodPoint, notify: Notify) -> Choice:
        """Find the point; a point that a time names must be good. Raises the errors of `find` and StoredDamage."""
        if self.time is None:
            return self.find(repository, vm)
        chosen = self.find(repository, vm, wanted.disks, check_lost=False)
        return good_points.at_time(
            repository, chosen, self.time, replace(wanted, newest_good=self.newest_good), notify
        )


def exactly_one(what: str, at: str | None, point: str | None, *, newest_good: bool = False) -> Asked:
    """Return the one option that is given. `what` names the command ("a restore"). Raises UsageError."""
    asked = at_most_one(at, point)
    if asked is None:
        raise UsageError(
            f"{what} needs --at or --point",
            "Give --at 2020-06-30T22:00, or --point with an id from 'pitr list'.",
        )
    if newest_good and asked.time is None:
        raise UsageError(
            "--newest-good goes with --at", "Leave out --newest-good, or name the point by its time."
        )
    return replace(asked, newest_good=newest_good)


def at_most_one(at: str | None, point: str | None) -> Asked | None:
    """Return the option that is given, or None. Raises UsageError if both are given."""
    if at is None and point is None:
        return None
    if at is not None and point is not None:
        raise UsageError("--at and --point exclude each other", "Name the point by its time or by its id.")
    return Asked(asked_time.parse(at) if at is not None else None, point)


def since(repository: Repository, text: str, chosen: Choice, disks: Sequence[str]) -> Choice:
    """Return the point of the same VM that --since names by time or by id; a time prefers points with these disks.

    Raises UsageError, NoSuchPoint.
    """
    vm = chosen.backup.vm
    try:
        time = asked_time.parse(text)
    except UsageError:
        if not all(char in "0123456789abcdefABCDEF-" for char in text):
            raise
        return find.point_with_id(repository, text, vm)
    return Asked(time, None).find(repository, vm.id, disks)


def tell(output: Printer, choice: Choice) -> None:
    """Describe a point that a written time names, on standard error."""
    if choice.notes or (choice.asked is not None and not choice.asked.newest):
        output.notify(in_words(choice))


def warn(output: Printer, choice: Choice, disks: Sequence[str]) -> list[str]:
    """Warn of disks that the point lacks, on standard error. With `disks`, only those count. Return the warnings."""
    warnings = warnings_of(choice.backup, disks)
    for warning in warnings:
        output.notify(f"warning: {warning}")
    return warnings


def in_words(choice: Choice) -> str:
    """Describe the point: its VM, time and id, how it relates to the requested time, and the next later point."""
    backup = choice.backup
    return (
        f"VM {backup.vm.name}: the point of {times.for_people(backup.point)} (backup {backup.backup_id})"
        f"{_at_asked_time(choice)}{_next_point(choice.next_point, choice)}"
        f"{''.join(f'; {note}' for note in choice.notes)}"
    )


def _at_asked_time(choice: Choice) -> str:
    asked = choice.asked
    if asked is None:
        return ""
    if asked.covers(choice.backup.point):
        return f", the newest within {asked.words}" if asked.is_long else ""
    return f", {times.duration(choice.age_s)} before {asked.words}" if choice.age_s else ""


def _next_point(later: datetime | None, choice: Choice) -> str:
    if later is None:
        return ""
    text = f"; the next later point is {times.for_people(later)}"
    asked = choice.asked
    if asked is None or asked.newest or asked.covers(choice.backup.point):
        return text
    distance_s = (later - asked.latest).total_seconds()
    if distance_s * _MUCH_NEARER > choice.age_s:
        return text
    return f"{text}, which is much nearer: it takes --at {asked_time.to_type(later)}"
