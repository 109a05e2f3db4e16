# SPDX-License-Identifier: GPL-2.0-or-later
"""Remember the damage that commands find, and say which points it loses.

Nothing here fails a command: on a repository that pitr cannot write, the finding is only reported.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from pitr import times
from pitr.errors import FormatError, PitrError, RepositoryError
from pitr.model import Backup
from pitr.reporting import Notify
from pitr.repository import Repository, findings
from pitr.repository.catalog import Catalog, contents
from pitr.repository.damage import CatalogDiffers, Damage, StoredDamage
from pitr.repository.findings import KnownDamage, StoredFinding


@dataclass(frozen=True, slots=True)
class Loss:
    """The points (backup ids) that pitr cannot restore completely because of a finding.

    `disk_id` is the disk that is lost in them; None for all disks.
    """

    finding: StoredFinding
    disk_id: str | None
    points: frozenset[str]

    def concerns(self, backup: Backup, disks: Set[str]) -> bool:
        """Return whether one of these disks (ids) is lost at the point; any disk if `disks` is empty."""
        return backup.backup_id in self.points and (
            not disks or self.disk_id is None or self.disk_id in disks
        )


def losses(repository: Repository, vm_id: str | None = None, *, catalog: Catalog | None = None) -> list[Loss]:
    """Return what the stored findings about a VM (None: about all VMs) lose, as far as `catalog` knows the points.

    Raises RepositoryError.
    """
    stored = findings.found_in(repository.store, vm_id)
    if not stored:
        return []
    catalog = catalog or repository.catalog
    lost: dict[str, dict[str, set[str]]] = {}

    def based_on(finding: StoredFinding, stream_id: str) -> Iterator[Loss]:
        """Yield the loss of each disk: a stream can also use the frames of another disk."""
        if stream_id not in lost:
            by_disk = lost.setdefault(stream_id, defaultdict(set))
            for disk_id, backup_id, _ in contents.disks_lost(catalog, stream_id):
                by_disk[disk_id].add(backup_id)
        if not lost[stream_id]:
            yield Loss(finding, finding.disk_id, frozenset())
        for disk_id, points in lost[stream_id].items():
            yield Loss(finding, disk_id, frozenset(points))

    found: list[Loss] = []
    for finding in stored:
        if finding.what == findings.ENGINE:
            # The comparison proves this point wrong, not those based on it.
            found.append(Loss(finding, finding.disk_id, frozenset((finding.backup_id,))))
        elif finding.stream_id is not None:
            found += based_on(finding, finding.stream_id)
        elif (backup := catalog.get(finding.backup_id)) is None:
            found.append(Loss(finding, None, frozenset(catalog.descendants(finding.backup_id))))
        else:
            found += [loss for stream in backup.streams for loss in based_on(finding, stream.stream_id)]
    return found


def damage_of(repository: Repository, stored: Iterable[StoredFinding]) -> list[Damage]:
    """Return the damage of stored findings, with the points that are lost now. Raises RepositoryError."""
    known = [findings.read(repository.store, finding) for finding in stored]
    return [with_points_lost(repository.catalog, item.damage, item.finding) for item in known]


def with_points_lost(catalog: Catalog, damage: Damage, known: StoredFinding | None = None) -> Damage:
    """Return the damage with all points that are lost because of it."""
    if known is not None and known.what == findings.ENGINE:
        lost = [known.backup_id]
    elif damage.what == "configuration":
        lost = []
    elif damage.stream_id is not None:
        lost = catalog.dependants(damage.stream_id)
    else:
        lost = catalog.descendants(damage.backup_id) if damage.backup_id is not None else []
    return damage.losing(tuple(lost))


def remember(repository: Repository, vm_id: str, check: str, found: Sequence[Damage], notify: Notify) -> None:
    """Store what `check` found in points of the VM; if that fails, `notify` gets a line."""
    problem = _stored(repository, vm_id, check, found)
    if problem is not None:
        notify(problem)


def _stored(repository: Repository, vm_id: str, check: str, found: Sequence[Damage]) -> str | None:
    """Store findings. Return why that was impossible, or None."""
    try:
        whole = [
            damage if damage.points_lost else with_points_lost(repository.catalog, damage) for damage in found
        ]
        points = _points_of_records(repository.catalog, found)
        findings.add(repository.store, vm_id, check, whole, points)
        # A comparison with the engine's disk proves nothing about other points.
        others = {} if check == findings.AGAINST_ENGINE else _of_others(repository.catalog, vm_id, whole)
        for other_id, damage in others.items():
            findings.add(repository.store, other_id, check, damage, points)
    except (RepositoryError, FormatError) as error:
        return f"the damage could not be recorded in the repository, so later commands do not know it: {error.message}"
    return None


def _of_others(catalog: Catalog, vm_id: str, found: Sequence[Damage]) -> Mapping[str, list[Damage]]:
    """Return the damage that also loses points of other VMs, which use the same frames, by the VM's id."""
    of_others: dict[str, list[Damage]] = defaultdict(list)
    for damage in found:
        if damage.stream_id is not None:
            vms = {owner for _, _, owner in contents.disks_lost(catalog, damage.stream_id)}
            for owner in vms - {vm_id}:
                of_others[owner].append(damage)
    return of_others


def _points_of_records(catalog: Catalog, found: Sequence[Damage]) -> dict[str, datetime]:
    backups = [catalog.get(damage.backup_id or "") for damage in found if damage.stream_id is None]
    return {backup.backup_id: backup.point for backup in backups if backup is not None}


@contextmanager
def remembering(repository: Repository, vm_id: str, check: str) -> Iterator[None]:
    """Store the StoredDamage that the block raises as a finding about the VM."""
    try:
        yield
    except CatalogDiffers:
        # The stored data may be good: 'pitr catalog check' decides.
        raise
    except StoredDamage as error:
        problem = _stored(repository, vm_id, check, [error.damage])
        if problem is not None:
            error.add_note(problem)
        raise


class Recorder:
    """Stores damage that threads meet while they read; `notify` gets one line if that fails."""

    def __init__(self, repository: Repository, vm_id: str, check: str, notify: Notify) -> None:
        self._repository = repository
        self._vm_id = vm_id
        self._check = check
        self._notify = notify
        self._lock = threading.Lock()
        self._failed = False
        # Complete the catalog before the threads use it; only damage needs other VMs.
        repository.opened_catalog().of_id(vm_id)

    def record(self, error: PitrError) -> None:
        """Store the damage of a StoredDamage; ignore other errors."""
        if not isinstance(error, StoredDamage) or isinstance(error, CatalogDiffers):
            return
        with self._lock:
            problem = _stored(self._repository, self._vm_id, self._check, [error.damage])
            if problem is not None and not self._failed:
                self._failed = True
                self._notify(problem)


def reconcile(
    repository: Repository,
    known: Sequence[KnownDamage],
    found: Sequence[Damage],
    decided: Set[str],
    notify: Notify,
) -> list[Damage]:
    """Delete the known damage that a check disproved; return the damage that it could neither disprove nor find again.

    `decided` has the names of the findings whose bytes the check has read. `notify` gets a line if pitr cannot delete.
    """
    vms = {item.finding.vm_id for item in known}
    again = {findings.name_of(vm_id, damage) for vm_id in vms for damage in found}
    disproved = [
        item.finding for item in known if item.finding.name in decided and item.finding.name not in again
    ]
    try:
        findings.clear(repository.store, _everywhere(repository, disproved))
    except RepositoryError as error:
        notify(f"earlier findings of damage that are now disproved could not be cleared: {error.message}")
    gone = {finding.name for finding in disproved} | again
    return [_told(repository, item) for item in known if item.finding.name not in gone]


def _everywhere(repository: Repository, disproved: Sequence[StoredFinding]) -> list[StoredFinding]:
    """Return the findings with the same ones of other VMs, whose points use the same frames."""
    if not any(finding.stream_id is not None for finding in disproved):
        return list(disproved)
    same = {_without_vm(finding) for finding in disproved if finding.stream_id is not None}
    others = [each for each in findings.found_in(repository.store) if _without_vm(each) in same]
    return list({each.name: each for each in [*disproved, *others]}.values())


def _without_vm(finding: StoredFinding) -> str:
    return finding.name.split("/", 2)[2]


def _told(repository: Repository, item: KnownDamage) -> Damage:
    damage = with_points_lost(repository.catalog, item.damage, item.finding)
    found = f"{damage.message} (found by {item.check}, {times.for_people(item.time)})"
    return replace(damage, message=found)
