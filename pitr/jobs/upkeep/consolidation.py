# SPDX-License-Identifier: GPL-2.0-or-later
"""Consolidate the points that a prune keeps, so that what they are based on may go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pitr.errors import NoFittingIdentity, UsageError
from pitr.jobs.consolidate.choose import points_to_consolidate
from pitr.jobs.consolidate.stand_ins import write_stand_ins
from pitr.jobs.facts import PointFacts
from pitr.jobs.upkeep.retention import is_needed_only, needed_without
from pitr.model import Backup
from pitr.reporting import Notify
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage

KeptBy = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class KeptPoints:
    """What a removal keeps of a VM: the reasons by backup id, and the new records by the id that each replaces.

    `left_over` are records that an interrupted run had replaced already.
    """

    reasons: KeptBy
    made: Mapping[str, Backup] = field(default_factory=dict)
    copied_bytes: int = 0
    left_over: Sequence[Backup] = ()

    def unwanted(self, points: Sequence[Backup]) -> list[Backup]:
        """Return those of the points that go."""
        return [backup for backup in points if backup.backup_id not in self.reasons]

    def replaced(self, points: Sequence[Backup]) -> list[Backup]:
        """Return the records whose place others have taken: those of the points, and the left over ones."""
        return [*(backup for backup in points if backup.backup_id in self.made), *self.left_over]


def kept_points(
    repository: Repository,
    points: Sequence[Backup],
    facts: Mapping[str, PointFacts],
    kept: KeptPoints,
    *,
    dry_run: bool,
    notify: Notify,
) -> KeptPoints:
    """Write the records that let points go which are only needed by others, and return what is kept then.

    `points` are all of the VM, newest first, but for those that are left over. Points that cannot be consolidated keep
    what they need. The caller holds the lock of the VM.
    """
    if not repository.opens:
        return _kept_sealed(kept, notify)
    damaged = {backup_id for backup_id, each in facts.items() if each.damaged}
    chosen = {backup_id for backup_id, why in kept.reasons.items() if not is_needed_only(why)}
    wanted = points_to_consolidate(repository, points, chosen, damaged)
    independent = {backup.backup_id for backup in wanted}
    reasons = needed_without(points, kept.reasons, independent)
    going = {backup.backup_id for backup in points if backup.backup_id not in reasons} | independent
    going |= {backup.backup_id for backup in kept.left_over}
    try:
        done = write_stand_ins(repository, [*points, *kept.left_over], facts, wanted, going, dry_run=dry_run)
    except NoFittingIdentity:
        return _kept_sealed(kept, notify)
    except (StoredDamage, UsageError) as error:
        notify(f"warning: nothing was consolidated, so points stay that others need: {error.message}")
        return kept
    return KeptPoints(reasons, done.made, done.copied_bytes, kept.left_over)


def _kept_sealed(kept: KeptPoints, notify: Notify) -> KeptPoints:
    """Keep what kept points need, because this process cannot read all of it."""
    if any(is_needed_only(why) for why in kept.reasons.values()):
        notify("points stay that others need: without an identity, a sealed repository is not consolidated")
    return kept
