# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a VM's points when a clock was wrong: labels corrected by lineage.

The engine's clock labels the points. If it was ahead once, or was set back, labels contradict the lineage, which is
always right: a point is newer than the points that it is based on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from pitr.model import Backup, parents_of

#: Clocks that differ by less are good enough for labels.
CLOCK_TOLERANCE = timedelta(minutes=2)


def times_by_lineage(points: Sequence[Backup], now: datetime) -> dict[str, datetime]:
    """Return the time of each point by its backup id; no point is older than one that it is based on.

    A label later than `now` is wrong. Such a point is as old as the oldest point based on it, or as `now`.
    """
    order = _parents_first(points)
    parents = parents_of(points)
    children: dict[str, list[str]] = defaultdict(list)
    found: dict[str, datetime] = {}
    for backup in reversed(order):
        label = backup.point
        if label > now:
            label = min((found[child] for child in children[backup.backup_id]), default=now)
        found[backup.backup_id] = label
        parent = parents[backup.backup_id]
        if parent in parents:
            children[parent].append(backup.backup_id)
    for backup in order:
        parent = parents[backup.backup_id]
        if parent in found:
            found[backup.backup_id] = max(found[backup.backup_id], found[parent])
    return found


def newest_first(points: Sequence[Backup], now: datetime) -> list[Backup]:
    """Return the points by `times_by_lineage`, newest first; points of one time by their lineage."""
    found = times_by_lineage(points, now)
    position = {backup.backup_id: number for number, backup in enumerate(_parents_first(points))}
    return sorted(
        points, key=lambda backup: (found[backup.backup_id], position[backup.backup_id]), reverse=True
    )


def labelled_before_parent(points: Sequence[Backup]) -> list[tuple[Backup, Backup]]:
    """Return the points whose label is earlier than the label of the point they are based on, with that point."""
    by_id = {backup.backup_id: backup for backup in points}
    parents = parents_of(points)
    pairs = ((backup, by_id.get(parents[backup.backup_id] or "")) for backup in points)
    return [
        (backup, parent) for backup, parent in pairs if parent is not None and backup.point < parent.point
    ]


def _parents_first(points: Sequence[Backup]) -> list[Backup]:
    """Return the points by label, but each after the point that it is based on."""
    by_id = {backup.backup_id: backup for backup in points}
    parents = parents_of(points)
    placed: set[str] = set()
    order: list[Backup] = []
    for backup in sorted(points, key=lambda backup: backup.point):
        waiting: list[Backup] = []
        current: Backup | None = backup
        while current is not None and current.backup_id not in placed:
            placed.add(current.backup_id)
            waiting.append(current)
            current = by_id.get(parents[current.backup_id] or "")
        order += reversed(waiting)
    return order


def replaced_already(points: Sequence[Backup]) -> list[Backup]:
    """Return the points whose place another one has taken: an interrupted run left them.

    Of several records that stand for the same point, one stays.
    """
    ids = {backup.stands_for for backup in points if backup.stands_for is not None}
    last = {backup.stands_for: backup.backup_id for backup in sorted(points, key=lambda each: each.backup_id)}
    return [
        backup
        for backup in points
        if backup.backup_id in ids
        or (backup.stands_for is not None and last[backup.stands_for] != backup.backup_id)
    ]


def without_replaced(points: Sequence[Backup]) -> list[Backup]:
    """Return the points without those whose place another one has taken."""
    replaced = {backup.backup_id for backup in replaced_already(points)}
    return [backup for backup in points if backup.backup_id not in replaced]
