# SPDX-License-Identifier: GPL-2.0-or-later
"""Take removed points back before their objects are swept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from pitr import times
from pitr.errors import NoSuchPoint, PitrError, UsageError
from pitr.jobs import find
from pitr.model import Backup
from pitr.repository import Repository, removed_points, tombstones
from pitr.repository.hidden import based_on, needed_by
from pitr.repository.removed_points import RemovedPoint

#: In the last part of the grace time, this fraction of it, nothing comes back.
_MARGIN = 20


@dataclass(frozen=True, slots=True)
class NotBack:
    """A removed point that stays removed, and why."""

    backup_id: str
    error: PitrError


@dataclass(slots=True)
class Undone:
    """The points that are back, each after the point that it is based on, and the named ones that are not."""

    points: list[Backup] = field(default_factory=list)
    failed: list[NotBack] = field(default_factory=list)
    #: How many points that nobody named stay removed, because their grace time or that of a base has ended.
    late: int = 0

    @property
    def exit_code(self) -> int:
        """0, or the exit code of the first failure."""
        return self.failed[0].error.exit_code if self.failed else 0


def undo(
    repository: Repository, names: Sequence[str], vm: str | None = None, *, dry_run: bool = False
) -> Undone:
    """Take back the removed points with these ids, or all (of a VM) that can come back, and what they are based on.

    A point that cannot come back is in the result if it was named. Raises NoSuchPoint, NoSuchVM, UsageError, BusyError.
    """
    removed = removed_points.of_vm(repository, None)
    if vm is not None:
        entries = [(each.backup.vm.id, each.backup.vm.name, each.backup.vm.id) for each in removed]
        vm_id = find.by_id_or_name(vm, "VMs", entries) or find.vms_of(repository, vm)[0].id
        removed = [each for each in removed if each.backup.vm.id == vm_id]
    chosen = {_named(removed, name).backup.backup_id for name in names}
    result = Undone()
    by_vm = sorted(removed, key=lambda each: each.backup.vm.id)
    for _, of_vm in groupby(by_vm, key=lambda each: each.backup.vm.id):
        points = list(of_vm)
        if not names or any(each.backup.backup_id in chosen for each in points):
            _undo_vm(repository, points, chosen if names else None, result, dry_run=dry_run)
    return result


def _named(removed: Sequence[RemovedPoint], name: str) -> RemovedPoint:
    found = find.removed_named(removed, name)
    if found is None:
        raise NoSuchPoint(f"no removed point has the id {name!r}", "'pitr list --removed' shows them.")
    return found


def _undo_vm(
    repository: Repository,
    removed: Sequence[RemovedPoint],
    chosen: set[str] | None,
    result: Undone,
    *,
    dry_run: bool,
) -> None:
    vm = removed[0].backup.vm
    if dry_run:
        _take_back(repository, removed, chosen, result, dry_run=True)
    else:
        with repository.lock_vm(vm):
            repository.opened_catalog().again(vm.id)
            _take_back(repository, removed_points.of_vm(repository, vm.id), chosen, result, dry_run=False)


def _take_back(
    repository: Repository,
    removed: Sequence[RemovedPoint],
    chosen: set[str] | None,
    result: Undone,
    *,
    dry_run: bool,
) -> None:
    if not removed:
        return
    vm_id = removed[0].backup.vm.id
    # A dry run writes nothing, so it trusts the clock of this host.
    now = times.now() if dry_run else tombstones.store_time(repository.store)
    hidden = {each.backup.backup_id: each for each in removed}
    visible = repository.catalog_of_vm(vm_id).points(vm_id)
    every = [*visible, *(each.backup for each in removed)]
    parents = based_on(every, hidden)
    replaced = {each.stands_for for each in visible}
    # A sweep that begins right after the grace time must not meet the removal of a tombstone.
    last = {name: each.swept_after - repository.grace / _MARGIN for name, each in hidden.items()}
    back: set[str] = set()
    for backup_id, point in hidden.items():
        # Without names, what another point stands for stays away: its data is in that one.
        if backup_id in replaced if chosen is None else backup_id not in chosen:
            continue
        needed = needed_by([backup_id], parents)
        if needed <= parents.keys() and all(now < last[each] for each in needed & hidden.keys()):
            back |= needed & hidden.keys()
        elif chosen is None:
            result.late += 1
        else:
            result.failed.append(NotBack(backup_id, _too_late(point, now >= last[backup_id])))
    order = _parents_first(back, parents)
    points = [hidden[backup_id].backup for backup_id in order]
    if points and not dry_run:
        removed_points.bring_back(repository, points)
    result.points += points


def _too_late(point: RemovedPoint, own: bool) -> UsageError:
    what = "its grace time ended" if own else "a point that it is based on is gone, or its grace time ended"
    return UsageError(
        f"point {point.backup.backup_id} cannot come back: {what}",
        f"It was removed at {times.for_people(point.removed_at)}. As long as 'pitr list --removed' shows it, 'pitr "
        "restore --point' may still restore it.",
    )


def _parents_first(chosen: set[str], parents: dict[str, str | None]) -> list[str]:
    depths = {backup_id: len(needed_by([backup_id], parents)) for backup_id in chosen}
    return sorted(chosen, key=lambda backup_id: (depths[backup_id], backup_id))
