# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of backups with equal times."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from pitr.model import Backup, parents_of


def by_lineage(backups: list[Backup]) -> list[Backup]:
    """Order backups with the same time by their lineage, newest first, because clocks are coarse."""
    ordered: list[Backup] = []
    for _, group in groupby(backups, key=lambda backup: backup.point):
        same_time = list(group)
        if len(same_time) > 1:
            parents = parents_of(same_time)
            same_time.sort(key=lambda backup: _generation(backup.backup_id, parents), reverse=True)
        ordered += same_time
    return ordered


def _generation(backup_id: str, parents: Mapping[str, str | None]) -> int:
    """Return on how many of the backups in `parents` this one is based."""
    seen = {backup_id}
    parent = parents.get(backup_id)
    while parent is not None and parent in parents and parent not in seen:
        seen.add(parent)
        parent = parents[parent]
    return len(seen) - 1
