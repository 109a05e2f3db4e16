# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the points of a VM to keep by rules such as "the newest point of each of seven days"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from pitr import times
from pitr.jobs import point_order
from pitr.model import Backup, parents_of
from pitr.times import parse_span

#: The rules that count points, as they are named.
_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_NEEDED_BY = "needed by "


@dataclass(frozen=True, slots=True)
class Retention:
    """The rules. A point is kept if any rule keeps it; None means that there is no such rule.

    `last`: the newest points, this many. `hourly` to `yearly`: the newest point of each of the last hours, days, ISO
    weeks, months or years that have points, this many. `within`: all points that are at most this much older than the
    newest point (not older than now: when backups stop, points must not disappear). `within_text` is that span as
    the user typed it.
    """

    last: int | None = None
    hourly: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    within: timedelta | None = None
    within_text: str = ""

    @classmethod
    def of(cls, rules: Mapping[str, int | str | None]) -> Retention:
        """Return the rules that are named as on the command line: keep_last, …, keep_within ("30d").

        Raises UsageError for a time span that cannot be read.
        """
        counts = {name: rules.get(f"keep_{name}") for name in _COUNTS}
        within = rules.get("keep_within")
        return cls(
            **{name: int(count) if count is not None else None for name, count in counts.items()},
            within=parse_span("--keep-within", str(within)) if within is not None else None,
            within_text=str(within or "").strip(),
        )

    @property
    def is_empty(self) -> bool:
        return self.within is None and all(getattr(self, name) is None for name in _COUNTS)


def kept(
    points: Sequence[Backup],
    retention: Retention,
    zone: tzinfo | None = None,
    damaged: Set[str] = frozenset(),
) -> list[Backup]:
    """Return the points of one VM that `retention` keeps, and those they are based on.

    Days begin at midnight in `zone` (None: this machine's time zone). A point counts as no older than a point that it
    is based on, and as no newer than now, whatever a wrong clock labelled it.
    """
    reasons = kept_by(points, retention, zone, damaged)
    newest_first = point_order.newest_first(points, times.now())
    return [backup for backup in newest_first if backup.backup_id in reasons]


def kept_by(
    points: Sequence[Backup],
    retention: Retention,
    zone: tzinfo | None = None,
    damaged: Set[str] = frozenset(),
    held: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Return the reasons why each point is kept, by backup id; points that are not kept are absent.

    A reason is a rule ("keep-last 1"), or "needed by ID" with the id of a point that a rule keeps. `damaged` has the
    ids of points that are lost: rules do not count them, so a good point is kept in the place of each, and the newest
    good point always stays. A damaged point itself goes when it would go if it were good. `held` has the reasons of
    points that people hold, by backup id. The other parameters are the same as for `kept`.
    """
    now = times.now()
    time_of = point_order.times_by_lineage(points, now)
    points = point_order.newest_first(points, now)
    chosen: dict[str, list[str]] = {}
    for rule, backup_id in _chosen(points, time_of, retention, zone):
        if backup_id in damaged:
            chosen.setdefault(backup_id, []).append(f"{rule} (damaged, not counted)")
    good = [backup for backup in points if backup.backup_id not in damaged]
    for rule, backup_id in _chosen(good, time_of, retention, zone):
        chosen.setdefault(backup_id, []).append(rule)
    for backup_id, reason in (held or {}).items():
        chosen.setdefault(backup_id, []).append(reason)
    in_order = {backup.backup_id: chosen[backup.backup_id] for backup in points if backup.backup_id in chosen}
    return _with_ancestors(points, in_order)


def _chosen(
    points: Sequence[Backup], time_of: Mapping[str, datetime], retention: Retention, zone: tzinfo | None
) -> Iterator[tuple[str, str]]:
    """Yield each rule with the id of each point that it keeps. `points` are in order, newest first."""
    if retention.last is not None:
        rule = f"keep-last {retention.last}"
        yield from ((rule, backup.backup_id) for backup in points[: retention.last])
    if retention.within is not None and points:
        limit = time_of[points[0].backup_id] - retention.within
        span = retention.within_text or f"{retention.within / timedelta(hours=1):g}h"
        for backup in points:
            if time_of[backup.backup_id] >= limit:
                yield f"keep-within {span}", backup.backup_id
    calendars: tuple[tuple[str, int | None, Callable[[datetime], tuple[int, ...]]], ...] = (
        ("hourly", retention.hourly, lambda time: (time.year, time.month, time.day, time.hour)),
        ("daily", retention.daily, lambda time: (time.year, time.month, time.day)),
        ("weekly", retention.weekly, lambda time: time.isocalendar()[:2]),
        ("monthly", retention.monthly, lambda time: (time.year, time.month)),
        ("yearly", retention.yearly, lambda time: (time.year,)),
    )
    for name, count, period in calendars:
        newest_of: dict[tuple[int, ...], str] = {}
        for backup in points:
            newest_of.setdefault(period(time_of[backup.backup_id].astimezone(zone)), backup.backup_id)
        yield from (
            (f"keep-{name} {count}", backup_id) for backup_id in list(newest_of.values())[: count or 0]
        )


def is_needed_only(reasons: Sequence[str]) -> bool:
    """Return whether a point is kept only because others are based on it."""
    return all(reason.startswith(_NEEDED_BY) for reason in reasons)


def needed_without(
    points: Sequence[Backup], reasons: Mapping[str, Sequence[str]], independent: Set[str]
) -> dict[str, list[str]]:
    """Return the reasons of `kept_by` for the case that the `independent` points are based on no other one."""
    chosen = {
        backup_id: [reason for reason in why if not reason.startswith(_NEEDED_BY)]
        for backup_id, why in reasons.items()
        if not is_needed_only(why)
    }
    return _with_ancestors(points, chosen, independent)


def _with_ancestors(
    points: Sequence[Backup], chosen: Mapping[str, list[str]], independent: Set[str] = frozenset()
) -> dict[str, list[str]]:
    """Add the points that the chosen ones are based on, up to and including the next chosen one of each chain.

    The `independent` ones are based on none.
    """
    parents = {
        backup_id: None if backup_id in independent else parent
        for backup_id, parent in parents_of(points).items()
    }
    reasons = {backup_id: list(rules) for backup_id, rules in chosen.items()}
    for backup_id in chosen:
        seen = {backup_id}
        current = parents.get(backup_id)
        while current is not None and current not in seen:
            seen.add(current)
            reasons.setdefault(current, []).append(f"{_NEEDED_BY}{backup_id}")
            if current in chosen:
                break
            current = parents.get(current)
    return reasons
