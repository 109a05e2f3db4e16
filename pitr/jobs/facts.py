# SPDX-License-Identifier: GPL-2.0-or-later
"""What a repository knows of its points beside their records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pitr.jobs import holds, unusual_files
from pitr.jobs import unusual as unusual_points
from pitr.jobs.known_damage import losses
from pitr.jobs.unusual import Unusual
from pitr.model import Backup
from pitr.repository import Repository, drills, removed_points
from pitr.repository.catalog import Catalog
from pitr.repository.drills import Proven
from pitr.repository.findings import StoredFinding
from pitr.repository.marks import NO_MARKS, Marks
from pitr.repository.removed_points import RemovedPoint


@dataclass(frozen=True, slots=True)
class PointFacts:
    """Facts about one point. `proven` is the result of its last drill, `damage` what checks found in its chains.

    `unusual` has what the point differs in from its VM's earlier points. `marks` has its hold and its note; a hold that
    has ended is absent. `removed`: the point is removed, and its objects stay for some time.
    """

    proven: Proven | None = None
    damage: tuple[StoredFinding, ...] = ()
    unusual: tuple[Unusual, ...] = ()
    marks: Marks = NO_MARKS
    removed: RemovedPoint | None = None

    @property
    def damaged(self) -> bool:
        """Whether pitr cannot restore the point completely, as far as it knows."""
        return bool(self.damage)


NO_FACTS = PointFacts()


def facts_of_vm(repository: Repository, vm_id: str | None) -> Mapping[str, PointFacts]:
    """Return the facts about the points of a VM (None: of all VMs) by backup id. Points without facts are absent.

    Raises RepositoryError.
    """
    return _facts(repository, repository.catalog_of_vm(vm_id), vm_id)


def facts_of_all(repository: Repository, catalog: Catalog) -> Mapping[str, PointFacts]:
    """Return the facts about all points of a catalog by backup id, as `facts_of_vm` does. Raises RepositoryError."""
    return _facts(repository, catalog, None)


def _facts(repository: Repository, catalog: Catalog, vm_id: str | None) -> Mapping[str, PointFacts]:
    proven = drills.last_proven(repository.store, vm_id)
    damage = _damage_of_vm(repository, catalog, vm_id)
    unusual = unusual_points.merged(
        unusual_points.of_vms(catalog, vm_id), unusual_files.of_vms(repository, vm_id)
    )
    marks = holds.marks_of(repository, vm_id)
    return {
        backup_id: PointFacts(
            proven.get(backup_id),
            damage.get(backup_id, ()),
            unusual.get(backup_id, ()),
            marks.get(backup_id, NO_MARKS),
        )
        for backup_id in proven.keys() | damage.keys() | unusual.keys() | marks.keys()
    }


def facts_of_good_points(
    repository: Repository, unusual: Mapping[str, tuple[Unusual, ...]]
) -> Mapping[str, PointFacts]:
    """Return the facts about points of any VMs without known damage, by the backup ids of `unusual`.

    `unusual` says what is unusual about each. Raises RepositoryError.
    """
    proven = drills.last_proven(repository.store)
    marks = holds.marks_of(repository, None)
    return {
        backup_id: PointFacts(proven.get(backup_id), (), of_point, marks.get(backup_id, NO_MARKS))
        for backup_id, of_point in unusual.items()
    }


def _damage_of_vm(
    repository: Repository, catalog: Catalog, vm_id: str | None
) -> dict[str, tuple[StoredFinding, ...]]:
    damage: dict[str, dict[str, StoredFinding]] = defaultdict(dict)
    # A frame of one VM can be in use by another one.
    for loss in losses(repository, vm_id, catalog=catalog if vm_id is None else None):
        for backup_id in loss.points:
            damage[backup_id][loss.finding.name] = loss.finding
    return {backup_id: tuple(by_name.values()) for backup_id, by_name in damage.items()}


def facts_of(repository: Repository, backup: Backup) -> PointFacts:
    """Return the facts about one point, which may be removed. Raises RepositoryError."""
    known = facts_of_vm(repository, backup.vm.id).get(backup.backup_id, NO_FACTS)
    removed = facts_of_removed(repository, backup.vm.id).get(backup.backup_id)
    return known if removed is None else replace(known, removed=removed.removed)


def facts_of_removed(repository: Repository, vm_id: str | None) -> Mapping[str, PointFacts]:
    """Return the facts about the removed points of a VM (None: of all VMs) by backup id. Raises RepositoryError."""
    return {
        each.backup.backup_id: PointFacts(removed=each) for each in removed_points.of_vm(repository, vm_id)
    }
