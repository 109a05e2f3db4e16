# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove the objects of points that were hidden long enough ago: records first, then indexes, blobs and tombstones.

Other hosts hold no locks here. What they began before a point was hidden has ended or given up by now, and what they
began later was not based on it. A point that somebody committed on a hidden one in between keeps that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pitr import times
from pitr.errors import BusyError, Interrupted, PitrError
from pitr.jobs.facts import PointFacts
from pitr.jobs.upkeep import small_objects
from pitr.jobs.upkeep.pruned import BusyVM, FailedRemoval
from pitr.model import Backup, VMName
from pitr.repository import (
    Repository,
    content_checks,
    drills,
    findings,
    marks,
    names,
    proofs,
    removed_points,
    rollbacks,
    tombstones,
)
from pitr.repository.hidden import based_on, needed_by
from pitr.repository.protection import protected_until
from pitr.repository.removed_points import RemovedPoint

if TYPE_CHECKING:
    from pitr.jobs.upkeep.prune import Removal


def sweep(removal: Removal, only: Sequence[VMName] | None = None) -> None:
    """Remove the objects of all points (of `only` these VMs) whose grace time has passed.

    Failures are in the result of `removal`. Raises Interrupted.
    """
    repository = removal.repository
    chosen = None if only is None else {vm.id for vm in only}
    vm: VMName | None = None
    try:
        vm_ids = sorted(repository.store.folders(names.TOMBSTONES))
        vm_ids = [vm_id for vm_id in vm_ids if chosen is None or vm_id in chosen]
        if not vm_ids:
            return
        # A dry run writes nothing, so it trusts the clock of this host.
        now = times.now() if removal.dry_run else tombstones.store_time(repository.store)
        if not removal.dry_run:
            # What other hosts committed until now may use frames of any stream.
            repository.forget_catalog()
        unreadable = _unreadable(repository, now)
        if unreadable:
            removal.notify(f"removed points stay: cannot read a record: {unreadable[0]}")
            return
        vms = {each.id: each for each in (*repository.catalog.vms(), *removed_points.rows(repository).vms())}
        for vm_id in vm_ids:
            vm = vms.get(vm_id, VMName(vm_id, vm_id))
            _sweep_vm(removal, vm, now)
    except Interrupted:
        raise
    except PitrError as error:
        removal.result.failed.append(FailedRemoval(vm, error))


def _unreadable(repository: Repository, now: datetime) -> list[str]:
    """Return messages about records that pitr cannot read and that must stay: nobody knows what they need."""
    opened = repository.opened_catalog()
    opened.whole()
    rows, hidden = opened.hidden_rows()
    readable = {known.backup_id for known in rows.known().values()}
    lost = [each for name, each in hidden.items() if name not in readable]
    return opened.unreadable + [each.name for each in lost if now - each.removed_at < repository.grace]


@dataclass(frozen=True, slots=True)
class _Due:
    """What a sweep of a VM removes: points, each before the point that it is based on, and mere tombstones.

    `lost` has the damaged records of hidden points, by the ids of the points.
    """

    points: list[RemovedPoint]
    lost: dict[str, str]
    tombstones: list[str]


def _sweep_vm(removal: Removal, vm: VMName, now: datetime) -> None:
    repository = removal.repository
    if removal.dry_run:
        _tell(removal, _due(repository, vm.id, now).points)
        return
    try:
        with repository.removing_from_vm(vm):
            repository.opened_catalog().again(vm.id)
            due = _due(repository, vm.id, now)
            _remove(removal, vm, due)
    except BusyError as error:
        if all(busy.vm.id != vm.id for busy in removal.result.busy):
            removal.result.busy.append(BusyVM(vm, error.message))


def _due(repository: Repository, vm_id: str, now: datetime) -> _Due:
    """Return what may go: hidden points whose time has passed and that no point is based on that stays."""
    from pitr.jobs.upkeep.prune import children_first  # noqa: PLC0415 - it imports this module

    hidden = {each.backup.backup_id: each for each in removed_points.of_vm(repository, vm_id)}
    buried = tombstones.of_vm(repository.store, vm_id)
    passed = {backup_id for backup_id, written in buried.items() if now - written >= repository.grace}
    rolling_back = rollbacks.points_of(repository.store, vm_id) if passed else frozenset()
    due = {
        backup_id: each
        for backup_id, each in hidden.items()
        if backup_id in passed
        and each.backup.known_as not in rolling_back
        and not _is_protected(repository, each.backup)
    }
    visible = repository.catalog_of_vm(vm_id).points(vm_id)
    every = [*visible, *(each.backup for each in hidden.values())]
    parents = based_on(every, buried)
    for backup_id in needed_by([each for each in parents if each not in due], parents):
        due.pop(backup_id, None)
    order = children_first([each.backup for each in due.values()])
    records = repository.opened_catalog().hidden_of(vm_id)
    lost = {each: records[each].name for each in passed if each in records and each not in hidden}
    # A point of this VM needs the point, or its record is gone.
    mere = [each for each in passed if each not in records]
    return _Due([due[backup.backup_id] for backup in order], lost, sorted(mere))


def _is_protected(repository: Repository, backup: Backup) -> bool:
    # Its other objects were protected before the record, so they are free soon, too.
    name = names.record(backup.vm.id, backup.point, backup.backup_id)
    return protected_until(repository, name) is not None


def _remove(removal: Removal, vm: VMName, due: _Due) -> None:
    repository, store = removal.repository, removal.repository.store
    points = [each.backup for each in due.points]
    configurations = small_objects.configurations_of_only(repository, points)
    for backup in points:
        # First: whoever knows the record must never take it for lost.
        tombstones.note_swept(store, vm.id, backup.backup_id)
        store.delete(names.record(vm.id, backup.point, backup.backup_id))
    for backup_id, name in due.lost.items():
        tombstones.note_swept(store, vm.id, backup_id)
        store.delete(name)
    _tell(removal, due.points)
    repository.opened_catalog().again(vm.id)
    drills.remove_of(store, points)
    content_checks.remove_of(store, points)
    findings.remove_of(store, points)
    marks.remove_of(store, points)
    streams = {stream.stream_id for backup in points for stream in backup.streams}
    repository.recorded -= streams
    removal.drop_streams(points, removed_points.used_as_parts(repository, streams))
    if points:
        small_objects.remove_configurations(repository, configurations, vm.id)
    for backup_id in (*(backup.backup_id for backup in points), *due.lost, *due.tombstones):
        tombstones.remove(store, vm.id, backup_id)
    if points:
        tombstones.forget_swept(store, vm.id)
        if not repository.catalog_of_vm(vm.id).points(vm.id):
            proofs.remove_of(store, vm.id)


def _tell(removal: Removal, due: Sequence[RemovedPoint]) -> None:
    for each in due:
        removal.result.swept.add(each.backup, facts=PointFacts(removed=each))
        # Streams that other points use stay, but a plan must not ask for the sizes of all objects.
        removal.result.freed_bytes += _size(each.backup)


def _size(backup: Backup) -> int:
    return sum(
        stored.size
        for stream in backup.streams
        for stored in (stream.blob if stream.external is None else None, stream.index, stream.index_copy)
        if stored is not None
    )
