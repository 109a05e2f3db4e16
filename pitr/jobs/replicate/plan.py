# SPDX-License-Identifier: GPL-2.0-or-later
"""Which points of a VM the target lacks, in the order in which they are committed there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pitr.jobs import known_damage
from pitr.jobs.replicate.team import Team
from pitr.model import Backup, StoredObject
from pitr.repository import Repository, names, stored_record
from pitr.repository.damage import Damage, StoredDamage, of_record

_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Missing:
    """A point that the target lacks: its record's name and bytes in the source, and what it says."""

    name: str
    record: StoredObject
    backup: Backup
    stored: bytes


@dataclass(slots=True)
class Plan:
    """The points of a VM to copy, each after the one that it is based on, and the damage that keeps others away.

    `wanted` names the records of all points that the target lacks, damaged ones included, without what they need.
    `has_gap`: the base of a point is gone. `newest` is the newest point of the source.
    """

    points: list[Missing] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)
    has_gap: bool = False
    newest: datetime | None = None

    def want(self, name: str, since: datetime | None) -> None:
        """Add a record to the wanted ones if its point is not older than `since`."""
        point = names.point_of_record(name)
        if since is None or point is None or point >= since:
            self.wanted.add(name)


def plan_of(
    source: Repository, target: Repository | None, vm_id: str, since: datetime | None, team: Team
) -> Plan:
    """Return what the target (None: there is none yet) lacks of a VM's points since a time, and what these need."""
    for _ in range(_TRIES):
        plan = _planned(source, target, vm_id, since, team)
        if not plan.has_gap:
            break
        # A removal or a consolidation in the source may have come between the list and the records.
    return plan


def _planned(
    source: Repository, target: Repository | None, vm_id: str, since: datetime | None, team: Team
) -> Plan:
    folder = names.records_of(vm_id)
    stored = set(target.store.list(folder)) if target is not None else set()
    in_source = set(source.store.list(folder))
    known = source.opened_catalog().again(vm_id).known(vm_id)
    # Removed points wait there for the end of their grace time; those that others are based on are not hidden.
    in_source -= {record.name for record in source.opened_catalog().hidden_of(vm_id).values()}
    points = [point for name in in_source if (point := names.point_of_record(name)) is not None]
    plan = Plan(newest=max(points, default=None))
    found: dict[str, Missing] = {}
    lacked = sorted(in_source - stored)
    for name, read in [(name, team.start(stored_record.read_bytes, source.store, name)) for name in lacked]:
        try:
            backup, record, stored_bytes = read.result()
            if name in known and known[name].record != record:
                message = f"the record {name} was changed after it was written"
                raise of_record(backup.backup_id, "inconsistent", message)
            found[backup.backup_id] = Missing(name, record, backup, stored_bytes)
        except StoredDamage as error:
            # A missing one was removed just now.
            if error.damage.kind != "missing":
                plan.damage.append(_losing(source, error.damage))
                plan.want(name, since)
    for name, damage in _lost_records(source, vm_id, known.keys() - in_source):
        plan.damage.append(damage)
        if name not in stored:
            plan.want(name, since)
    in_target = {names.backup_of_record(name) or "" for name in stored}
    _order(plan, found, since, _Present(target, vm_id, in_target))
    return plan


def _lost_records(source: Repository, vm_id: str, lost: Set[str]) -> Iterator[tuple[str, Damage]]:
    """Yield the records that the catalog knows, and that are gone although nobody removed them."""
    if not lost:
        return
    still_known = source.opened_catalog().again(vm_id).known(vm_id)
    now = set(source.store.list(names.records_of(vm_id)))
    for name in sorted(lost & still_known.keys() - now):
        backup_id = still_known[name].backup_id
        error = of_record(backup_id, "missing", f"the record of backup {backup_id} is missing")
        yield name, _losing(source, error.damage)


def _losing(source: Repository, damage: Damage) -> Damage:
    if damage.backup_id is None:
        return damage
    return known_damage.with_points_lost(source.catalog_with_point(damage.backup_id), damage)


@dataclass(frozen=True, slots=True)
class _Present:
    """The points that the target has."""

    target: Repository | None
    vm_id: str
    ids: set[str]

    def has(self, backup_id: str) -> bool:
        """Return whether the target has this backup, or one that stands for it."""
        if backup_id in self.ids:
            return True
        if self.target is None:
            return False
        stand_in = self.target.catalog_of_vm(self.vm_id).stand_in(backup_id)
        return stand_in is not None and stand_in.backup_id in self.ids


def _order(plan: Plan, found: Mapping[str, Missing], since: datetime | None, present: _Present) -> None:
    """Add the wanted points to the plan, each after the one that it is based on; name those whose base is gone."""
    standing = {
        each.backup.stands_for: backup_id
        for backup_id, each in found.items()
        if each.backup.stands_for is not None
    }
    done: dict[str, bool] = {}
    oldest_first = sorted(found.values(), key=lambda each: (each.backup.point, each.name))
    for wanted in oldest_first:
        if since is not None and wanted.backup.point < since:
            continue
        plan.wanted.add(wanted.name)
        path: list[Missing] = []
        whole: bool | None = None
        following: Missing | None = wanted
        while following is not None and whole is None:
            backup = following.backup
            if backup.backup_id in done:
                whole = done[backup.backup_id]
                break
            if following in path:
                whole = False
                break
            path.append(following)
            parent = backup.parent_id
            if parent is None or (parent not in found and present.has(parent)):
                whole = True
            else:
                following = found.get(parent) or found.get(standing.get(parent, ""))
        for each in reversed(path):
            done[each.backup.backup_id] = bool(whole)
            if whole:
                plan.points.append(each)
        if not whole and path:
            _name_gap(plan, path[-1].backup)


def _name_gap(plan: Plan, backup: Backup) -> None:
    """Name the lost base of a point, unless the damage of its record is named already."""
    if any(backup.parent_id == damage.backup_id for damage in plan.damage):
        return
    message = f"backup {backup.backup_id} is based on backup {backup.parent_id}, whose record is missing"
    plan.has_gap = True
    plan.damage.append(of_record(backup.parent_id, "missing", message).damage)
