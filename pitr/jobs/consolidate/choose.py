# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the points to consolidate, so that what they are based on may go and chains stay short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from pitr.model import Backup, Kind, parents_of
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage

#: A restore needs all objects of a chain, so longer chains are cut.
LONGEST_CHAIN: Final = 90


def points_to_consolidate(
    repository: Repository,
    points: Sequence[Backup],
    chosen: AbstractSet[str],
    damaged: AbstractSet[str],
    *,
    longest: int = LONGEST_CHAIN,
) -> list[Backup]:
    """Return the points to consolidate, oldest first, among all `points` of a VM.

    `chosen` has the ids of the points that rules keep. Of these, points are consolidated that are based on one that
    goes, and those that make a chain of kept points longer than `longest`. Points that are `damaged`, or based on data
    that is stored externally, stay as they are.
    """
    by_id = {backup.backup_id: backup for backup in points}
    parents = parents_of(points)
    depths: dict[str, int] = {}
    wanted: list[Backup] = []
    for backup in _parents_first(points, parents):
        parent = parents[backup.backup_id]
        if parent is None or parent not in by_id:
            depths[backup.backup_id] = 1
            continue
        depth = depths.get(parent, 0) + 1
        may = (
            backup.backup_id in chosen and backup.kind is Kind.INCREMENTAL and backup.backup_id not in damaged
        )
        if may and (parent not in chosen or depth > longest) and _is_possible(repository, backup):
            wanted.append(backup)
            depth = 1
        depths[backup.backup_id] = depth
    return wanted


def _parents_first(points: Sequence[Backup], parents: Mapping[str, str | None]) -> list[Backup]:
    by_id = {backup.backup_id: backup for backup in points}
    ordered: dict[str, Backup] = {}
    for backup in reversed(points):
        path: list[Backup] = []
        current: str | None = backup.backup_id
        while current in by_id and current not in ordered and len(path) <= len(by_id):
            path.append(by_id[current])
            current = parents[current]
        ordered.update((each.backup_id, each) for each in reversed(path))
    return list(ordered.values())


def _is_possible(repository: Repository, backup: Backup) -> bool:
    """Return whether the chains of a point are whole and in the repository. Reads records only."""
    try:
        return all(
            link.external is None for stream in backup.streams for _, link in repository.chain(backup, stream)
        )
    except StoredDamage:
        return False
