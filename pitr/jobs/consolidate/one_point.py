# SPDX-License-Identifier: GPL-2.0-or-later
"""Consolidate one point: write the map of its disks down as a synthetic backup, and remove the record that it replaces.

The new record is committed before the old one goes, so an interruption loses nothing, and the next run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pitr.errors import BusyError
from pitr.jobs.consolidate.replaced import remove_replaced, size_of, size_of_orphans
from pitr.jobs.consolidate.shared_blobs import blobs_of_removed
from pitr.jobs.consolidate.stand_ins import write_stand_ins
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of_vm
from pitr.jobs.known_damage import damage_of
from pitr.jobs.point_order import replaced_already
from pitr.model import Backup, Kind
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage


@dataclass(frozen=True, slots=True)
class Consolidated:
    """The new points, the records that they replace, and the facts about the point. `copied_bytes` are in new blobs."""

    created: tuple[Backup, ...] = ()
    removed: tuple[Backup, ...] = ()
    facts: PointFacts = NO_FACTS
    copied_bytes: int = 0
    freed_bytes: int = 0


def consolidate(repository: Repository, backup: Backup, *, dry_run: bool = False) -> Consolidated:
    """Replace an incremental point by a synthetic one, and copy what is live of blobs that are hardly live.

    Any other point stays as it is, but for blobs. `dry_run` changes nothing and returns the same. Raises StoredDamage
    for a damaged point, UsageError if a disk's data is stored externally, and BusyError.
    """
    with ExitStack() as stack:
        if dry_run:
            stack.enter_context(repository.reading_vm(backup.vm))
        else:
            stack.enter_context(repository.removing_from_vm(backup.vm))
        # Another process may have replaced or removed the point before this one had the lock.
        catalog, _ = repository.completed_again(backup.vm.id)
        points = catalog.points(backup.vm.id)
        backup = _now(points, backup)
        facts = facts_of_vm(repository, backup.vm.id)
        own = facts.get(backup.backup_id, NO_FACTS)
        for damage in damage_of(repository, own.damage):
            # Its findings would be lost with its record.
            raise StoredDamage(damage)
        left_over = replaced_already(points)
        ids = {each.backup_id for each in left_over}
        # An interrupted run leaves the new record beside the old one.
        wanted = [backup] if backup.kind is Kind.INCREMENTAL and backup.backup_id not in ids else []
        going = ids | {each.backup_id for each in wanted}
        done = write_stand_ins(repository, points, facts, wanted, going, dry_run=dry_run)
        replaced = [each for each in points if each.backup_id in done.made.keys() | ids]
        if not replaced:
            return Consolidated()
        gone = {each.backup_id for each in replaced}
        remaining = [each for each in points if each.backup_id not in gone]
        blobs = blobs_of_removed(repository, replaced, [*remaining, *done.made.values()])
        # Hidden points free nothing before a prune sweeps them.
        freed = 0
        if not repository.removes_later:
            freed = sum(size_of(repository, each, blobs.shared) for each in replaced)
            freed += size_of_orphans(repository, blobs)
        if not dry_run:
            remove_replaced(repository, replaced, blobs)
        created = tuple(done.made.values()) or tuple(
            each for each in remaining if each.stands_for == backup.backup_id
        )
        removed = sorted(replaced, key=lambda each: each.backup_id != backup.backup_id)
        return Consolidated(created, tuple(removed), own, done.copied_bytes, freed)


def _now(points: Sequence[Backup], backup: Backup) -> Backup:
    """Return the point as it is now: itself, or the one that has taken its place. Raises BusyError if it is gone."""
    for each in points:
        if each.backup_id == backup.backup_id:
            return each
    for each in points:
        if each.known_as == backup.known_as:
            return each
    raise BusyError(f"another pitr removed the point {backup.backup_id} just now", "Run the command again.")
