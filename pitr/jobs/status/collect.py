# SPDX-License-Identifier: GPL-2.0-or-later
"""Gather what is known of the points of all VMs: from indexes of the catalog and from names of objects.

This must stay cheap with many points, because monitoring programs ask every few minutes: pitr looks at the newest
points of each VM and reads no record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pitr import times
from pitr.jobs import find, known_damage, point_order, proofs, unusual
from pitr.jobs.status.vm_status import KnownPoints, LastPoint, PointTime
from pitr.jobs.unusual import Unusual, median
from pitr.jobs.unusual_files import NewestChecks
from pitr.model import Backup, VMName
from pitr.repository import Repository, drills, retired, rollbacks
from pitr.repository.catalog import Catalog, changes, overview
from pitr.repository.catalog.changes import Change
from pitr.repository.drills import Proven
from pitr.text import named, printable

#: So many of a VM's newest points are read: enough to compare the newest point with, and for most chains.
_NEWEST = 40
#: The usual amounts are the medians of so many points; with fewer than seven, none is usual.
_FEWEST, _MOST = 7, 30


@dataclass(slots=True)
class _Gathered:
    """What is known of VMs, by VM id."""

    counts: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    incomplete: dict[str, list[str]] = field(default_factory=dict)
    proven: dict[str, datetime] = field(default_factory=dict)
    last_drills: dict[str, tuple[str, Proven]] = field(default_factory=dict)
    retired: frozenset[str] = frozenset()
    checks: list[NewestChecks] = field(default_factory=list)
    rolling_back: set[str] = field(default_factory=set)

    def add(self, repository: Repository, catalog: Catalog, vm_id: str | None) -> None:
        """Gather what is known of a VM; of all VMs for None. Raises RepositoryError."""
        self.counts |= overview.point_counts(catalog, vm_id)
        for loss in known_damage.losses(repository, vm_id, catalog=catalog):
            self.damaged[loss.finding.vm_id] |= loss.points
        self.incomplete |= overview.incomplete_points(catalog, vm_id)
        drilled = list(drills.listed(repository.store, vm_id))
        self.proven |= proofs.last_proven(repository, vm_id, drilled=drilled)
        self.last_drills |= _last_drills(drilled)
        self.retired = retired.ids(repository.store)
        self.checks.append(NewestChecks(repository, vm_id))
        self.rolling_back |= rollbacks.unfinished_vms(repository.store, vm_id)


def known_points(
    repository: Repository, names: Sequence[str], now: datetime
) -> list[tuple[VMName, KnownPoints]]:
    """Return what is known of the points of the VMs with these names or ids; of all VMs if there is none.

    Raises RepositoryError, NoSuchVM and UsageError.
    """
    # Each catalog is the same, completed for other VMs.
    if names:
        found = [find.vm_named(repository.catalog_of_vm(name), name) for name in names]
        vms = list({vm.id: vm for vm in found}.values())
        catalog = repository.catalog_of_vm(names[-1])
    else:
        catalog = repository.catalog_by_number
        vms = catalog.vms()
    everything = _Gathered()
    for vm_id in [vm.id for vm in vms] if names else [None]:
        everything.add(repository, catalog, vm_id)
    return [(vm, _of_vm(catalog, vm, everything, now)) for vm in vms]


def _last_drills(drilled: Iterable[tuple[str, str, Proven]]) -> Mapping[str, tuple[str, Proven]]:
    last: dict[str, tuple[str, Proven]] = {}
    for vm_id, backup_id, proven in drilled:
        if vm_id not in last or last[vm_id][1].time < proven.time:
            last[vm_id] = (backup_id, proven)
    return last


def _of_vm(catalog: Catalog, vm: VMName, everything: _Gathered, now: datetime) -> KnownPoints:
    count = everything.counts[vm.id]
    newest = _in_order(catalog, vm, changes.newest(catalog, vm.id, _NEWEST), now)
    damaged = everything.damaged.get(vm.id, ())
    incomplete = everything.incomplete.get(vm.id, ())
    in_order = newest
    if damaged and (len(newest) < count):
        in_order = changes.newest(catalog, vm.id, count)
    good = next((change for change in in_order if change.backup_id not in damaged), None)
    return KnownPoints(
        count=count,
        chain_length=_chain_length(catalog, newest),
        last=_last(catalog, vm, newest, damaged=damaged, incomplete=incomplete),
        unusual_files=_unusual_files(catalog, vm, newest, everything),
        newest_good=PointTime(good.backup_id, times.from_text(good.point)) if good is not None else None,
        damaged=tuple(change.backup_id for change in in_order if change.backup_id in damaged),
        incomplete=tuple(incomplete),
        proven_at=everything.proven.get(vm.id),
        failed_drill=_failed_drill(catalog, everything.last_drills.get(vm.id), damaged),
        unfinished_rollback=vm.id in everything.rolling_back,
        retired=vm.id in everything.retired,
    )


def _in_order(catalog: Catalog, vm: VMName, newest: list[Change], now: datetime) -> list[Change]:
    """Return the points, the newest first, also if a wrong clock made labels that contradict the lineage."""
    parents = {change.parent_id for change in newest}
    if newest[0].point <= times.to_sortable(now) and newest[0].backup_id not in parents:
        return newest
    order = point_order.newest_first(catalog.points(vm.id), now)
    by_id = {change.backup_id: change for change in changes.newest(catalog, vm.id, len(order))}
    return [by_id[backup.backup_id] for backup in order if backup.backup_id in by_id]


def _chain_length(catalog: Catalog, newest: Sequence[Change]) -> int:
    """Return the number of points in the chain of the newest point."""
    parents = {change.backup_id: change.parent_id for change in newest}
    link: str | None = newest[0].backup_id
    length = 0
    while link in parents and length < len(parents):
        length += 1
        link = parents[link]
    return length if link is None else length + overview.chain_length(catalog, link)


def _last(
    catalog: Catalog,
    vm: VMName,
    newest: Sequence[Change],
    *,
    damaged: Collection[str],
    incomplete: Collection[str],
) -> LastPoint:
    last = newest[0]
    earlier = [change for change in newest[1:] if change.kind == last.kind][:_MOST]
    enough = len(earlier) >= _FEWEST
    return LastPoint(
        backup_id=last.backup_id,
        point=times.from_text(last.point),
        changed=last.data + last.zero,
        stored=last.stored,
        usual_changed=round(median(change.data + change.zero for change in earlier)) if enough else None,
        usual_stored=round(median(change.stored for change in earlier)) if enough else None,
        unusual=unusual.of_newest(catalog, vm.id, newest),
        damaged=last.backup_id in damaged,
        lacks=_lacks(catalog.get(last.backup_id)) if last.backup_id in incomplete else None,
    )


def _unusual_files(
    catalog: Catalog, vm: VMName, newest: Sequence[Change], everything: _Gathered
) -> tuple[Unusual, ...]:
    """Return what is unusual about the files of the newest point that was checked."""

    def point_of(backup_id: str) -> datetime | None:
        backup = catalog.get(backup_id)
        return backup.point if backup is not None else None

    ids = [change.backup_id for change in newest]
    return tuple(each for checks in everything.checks for each in checks.unusual_of_vm(vm.id, ids, point_of))


def _lacks(backup: Backup | None) -> str:
    missing = backup.missing_disks if backup is not None else ()
    return ", ".join(f"disk {named(disk.name, disk.disk_id)} ({printable(disk.reason)})" for disk in missing)


def _failed_drill(
    catalog: Catalog, last: tuple[str, Proven] | None, damaged: Collection[str]
) -> datetime | None:
    """Return the time of the point whose drill was the VM's last one, if it failed and the point is not damaged."""
    if last is None or last[1].ok or last[0] in damaged:
        return None
    backup = catalog.get(last[0])
    return backup.point if backup is not None else None
