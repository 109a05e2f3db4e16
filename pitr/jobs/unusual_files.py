# SPDX-License-Identifier: GPL-2.0-or-later
"""Points whose files a check found unusual: their content does not fit their types, or an attacker renamed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from pitr.errors import FormatError
from pitr.jobs import unusual
from pitr.jobs.unusual import Unusual, What
from pitr.model import Backup
from pitr.repository import Repository, content_checks
from pitr.repository.content_checks import ContentCheck, StoredCheck
from pitr.repository.store import ObjectMissing

#: Fewer files decide nothing.
FEWEST_FILES = 20
#: A share is unusual if it is this far above the usual one; more without an earlier point.
_STEP, _STEP_ALONE = 0.1, 0.25
#: So many names of attackers' programs are unusual, if earlier points do not have half of them.
_FEWEST_NAMES = 3


def is_content_unusual(sampled: int, share: float, usual: float | None) -> bool:
    """Return whether so many of the sampled files have content that does not fit their types."""
    if sampled < FEWEST_FILES:
        return False
    return share >= (_STEP_ALONE if usual is None else usual + _STEP)


def are_names_unusual(names: int, usual: int | None) -> bool:
    """Return whether a point has so many names that attackers' programs give."""
    return names >= _FEWEST_NAMES and names > 2 * (usual or 0)


def unusual_of(check: ContentCheck) -> tuple[Unusual, ...]:
    """Return what a check found unusual."""
    found: list[tuple[What, float, float]] = []
    if "content" in check.unusual:
        found.append(("content", round(check.share, 4), round(check.usual_share or 0.0, 4)))
    if "names" in check.unusual:
        found.append(("names", check.names, check.usual_names or 0))
    return tuple(Unusual(*each) for each in found)


def of_vms(repository: Repository, vm_id: str | None) -> dict[str, tuple[Unusual, ...]]:
    """Return what the last checks of a VM's points (None: of all VMs) found unusual, by backup id.

    Points without anything unusual are absent. Raises RepositoryError.
    """
    last = content_checks.last_of_points(repository.store, vm_id)
    found = {
        backup_id: _of_stored(repository, stored) for backup_id, stored in last.items() if stored.is_unusual
    }
    return {backup_id: of_point for backup_id, of_point in found.items() if of_point}


def warnings_of(repository: Repository, backup: Backup) -> list[str]:
    """Return a warning if the point is unusual by its changes or by a check of its files. Raises RepositoryError."""
    vm_id = backup.vm.id
    return unusual.warnings_of(repository.catalog_of_vm(vm_id), backup, of_vms(repository, vm_id))


def _of_stored(repository: Repository, stored: StoredCheck) -> tuple[Unusual, ...]:
    try:
        return unusual_of(content_checks.read(repository.store, stored.name))
    except (FormatError, ObjectMissing):
        # Damaged, or just removed: nothing depends on it.
        return ()


class NewestChecks:
    """The check of the newest checked point of each VM (`vm_id` None: of all VMs). Raises RepositoryError."""

    def __init__(self, repository: Repository, vm_id: str | None) -> None:
        self._repository = repository
        self._by_vm: dict[str, list[StoredCheck]] = {}
        for stored in content_checks.last_of_points(repository.store, vm_id).values():
            self._by_vm.setdefault(stored.vm_id, []).append(stored)

    def unusual_of_vm(
        self, vm_id: str, newest_first: Sequence[str], point_of: Callable[[str], datetime | None]
    ) -> tuple[Unusual, ...]:
        """Return what is unusual about the files of the VM's newest checked point.

        `newest_first` has the backup ids of its newest points; `point_of` returns the point of a backup, None if it is
        gone. Raises RepositoryError.
        """
        stored = {each.backup_id: each for each in self._by_vm.get(vm_id, ())}
        if not any(each.is_unusual for each in stored.values()):
            return ()
        newest = next((stored[backup_id] for backup_id in newest_first if backup_id in stored), None)
        if newest is None:
            points = [
                (point, backup_id) for backup_id in stored if (point := point_of(backup_id)) is not None
            ]
            newest = stored[max(points)[1]] if points else None
        return _of_stored(self._repository, newest) if newest is not None and newest.is_unusual else ()
