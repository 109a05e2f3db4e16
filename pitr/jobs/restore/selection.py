# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disks of which point a restore reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pitr import times
from pitr.jobs.known_damage import remembering
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.damage import StoredDamage

_POINTS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class DiskSelection:
    """Disks of the point that `backup` made: all `streams` belong to it.

    With `keep_going` a restore writes the undamaged ranges and reports the others; else damage is an error.
    `check` is what findings of damage say found them.
    """

    repository: Repository
    backup: Backup
    streams: tuple[Stream, ...]
    keep_going: bool = False
    check: str = "restore"


@contextmanager
def remembering_damage(selection: DiskSelection) -> Iterator[None]:
    """Store the StoredDamage that the block raises as a finding, and advise on it."""
    with (
        advise_on_damage(selection),
        remembering(selection.repository, selection.backup.vm.id, selection.check),
    ):
        yield


@contextmanager
def advise_on_damage(selection: DiskSelection) -> Iterator[None]:
    """Add the points that do not depend on the damage to the advice of a StoredDamage."""
    try:
        yield
    except StoredDamage as error:
        catalog, damage, backup = selection.repository.catalog, error.damage, selection.backup
        if damage.stream_id is not None:
            lost = catalog.dependants(damage.stream_id)
        else:
            lost = catalog.descendants(damage.backup_id or backup.backup_id)
        intact = [point for point in catalog.points(backup.vm.id) if point.backup_id not in {*lost}]
        listed = ", ".join(
            f"{times.for_people(point.point)} ({point.backup_id})" for point in intact[:_POINTS_SHOWN]
        )
        more = f" and {len(intact) - _POINTS_SHOWN} more" if len(intact) > _POINTS_SHOWN else ""
        error.advice = (
            f"Points that do not depend on it: {listed or 'none'}{more}. "
            "Use --at with --newest-good to take the newest good point, or --keep-going to restore the undamaged "
            "ranges; run 'pitr verify' to see all damage."
        )
        raise
