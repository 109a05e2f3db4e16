# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell when a new, independent full backup is due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pitr.model import Backup, Kind, Mode

#: A run that starts this much early still takes the full that is due.
_MOST_EARLY = timedelta(hours=6)


def full_is_due(points: Sequence[Backup], every: timedelta, now: datetime) -> bool:
    """Return whether the last full that the engine gave is at least `every` old; False without points.

    A synthetic backup is made of stored data, so it is no independent full. If only that is left, a full is due.
    """
    fulls = [
        backup.point for backup in points if backup.kind is Kind.FULL and backup.mode is not Mode.IMPORTED
    ]
    if not fulls:
        return any(backup.kind is Kind.SYNTHETIC for backup in points)
    return now - max(fulls) >= every - min(every / 10, _MOST_EARLY)
