# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of one VM: what is known of its points, and whether a person is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from pitr import times
from pitr.jobs import unusual
from pitr.jobs.unusual import Unusual
from pitr.model import VMName
from pitr.text import counted


class State(IntEnum):
    """How well a VM is, the larger the worse. The numbers are those of Nagios."""

    OK = 0
    WARNING = 1
    CRITICAL = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class PointTime:
    """A point: its backup id and its time."""

    backup_id: str
    point: datetime


@dataclass(frozen=True, slots=True)
class LastPoint:
    """The newest point, and how much earlier points of its kind usually changed and stored (None: too few).

    `lacks` says which disks it lacks; None for a complete point.
    """

    backup_id: str
    point: datetime
    changed: int
    stored: int
    usual_changed: int | None
    usual_stored: int | None
    unusual: tuple[Unusual, ...] = ()
    damaged: bool = False
    lacks: str | None = None


@dataclass(frozen=True, slots=True)
class KnownPoints:
    """What the repository knows of all points of a VM. Ids are newest first; `failed_drill` is the point's time.

    `unusual_files` has what is unusual about the files of the newest point that was checked.
    """

    count: int
    chain_length: int
    last: LastPoint
    newest_good: PointTime | None
    damaged: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    proven_at: datetime | None = None
    failed_drill: datetime | None = None
    unusual_files: tuple[Unusual, ...] = ()
    unfinished_rollback: bool = False
    retired: bool = False


@dataclass(frozen=True, slots=True)
class VMStatus:
    """The status of a VM at a time. `age` is that of the newest good point; `max_age` is None if any age is fine.

    `next_run` is when the VM's policy runs next, if that is known.
    """

    vm: VMName
    points: KnownPoints
    state: State
    reasons: tuple[str, ...]
    age: timedelta | None
    max_age: timedelta | None
    next_run: datetime | None = None


def judged(
    vm: VMName,
    points: KnownPoints,
    now: datetime,
    max_age: timedelta | None,
    next_run: datetime | None = None,
) -> VMStatus:
    """Return the status of a VM `now`. A retired VM may have any age."""
    good = points.newest_good
    age = max(timedelta(0), now - good.point) if good is not None else None
    limit = None if points.retired else max_age
    found = sorted(_reasons(points, age, limit), key=lambda reason: -reason[0])
    state = max((of_reason for of_reason, _ in found), default=State.OK)
    return VMStatus(vm, points, state, tuple(text for _, text in found), age, limit, next_run)


def _reasons(
    points: KnownPoints, age: timedelta | None, max_age: timedelta | None
) -> Iterator[tuple[State, str]]:
    last = points.last
    if points.unfinished_rollback:
        yield (
            State.CRITICAL,
            "a rollback is unfinished: do not start the VM, and run 'pitr rollback --continue'",
        )
    if points.newest_good is None:
        every = f"all {points.count} points are" if points.count > 1 else "the only point is"
        yield State.CRITICAL, f"no point is whole: {every} damaged"
    elif last.damaged:
        good = times.for_people(points.newest_good.point)
        yield State.CRITICAL, f"the newest chain is damaged; the newest good point is of {good}"
    if age is not None and max_age is not None and age > max_age:
        old, allowed = (times.duration(span.total_seconds()) for span in (age, max_age))
        yield State.CRITICAL, f"the newest good point is {old} old, and {allowed} are allowed"
    if last.unusual:
        yield State.WARNING, f"the newest point is unusual: {unusual.words(last.unusual)}"
    if points.unusual_files:
        yield State.WARNING, f"the newest check of files found: {unusual.words(points.unusual_files)}"
    if last.lacks is not None:
        yield State.WARNING, f"the newest point is incomplete: it lacks {last.lacks}"
    if points.damaged and not last.damaged and points.newest_good is not None:
        are = "is" if len(points.damaged) == 1 else "are"
        yield State.WARNING, f"{counted(len(points.damaged), 'older point')} {are} damaged"
    if points.failed_drill is not None:
        drilled = times.for_people(points.failed_drill)
        yield State.WARNING, f"the last drill failed, of the point of {drilled}"


def worst_first(statuses: Sequence[VMStatus]) -> list[VMStatus]:
    """Return the statuses, the worst first, those of one state by the age of the newest good point, oldest first."""
    return sorted(
        statuses,
        key=lambda status: (
            -status.state,
            -(status.age or timedelta.max).total_seconds(),
            status.vm.name,
            status.vm.id,
        ),
    )
