# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy what lies beside the points: holds, notes, drills, checks of files, and what is known about disks.

Nothing of it is copied for points that the target does not have. What belongs to one host or one engine stays where it
is: runs, open backups and uploads, checkpoints, proofs, and findings, which are about the bytes of one repository. Only
a difference from the engine's disk is about the point itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from pitr.errors import FormatError, RepositoryError
from pitr.jobs.replicate.outcome import Replicated, ReplicateWatch
from pitr.jobs.replicate.team import Team
from pitr.repository import Repository, canonical, findings, names, retired
from pitr.repository.damage import Damage
from pitr.repository.pairs import DISTRUSTED
from pitr.repository.store import ObjectExists, ObjectMissing

#: An empty object's name says all.
_MAX_SMALL: Final = 1 << 20


def copy_all(
    source: Repository,
    target: Repository,
    team: Team,
    vm_ids: Collection[str],
    watch: ReplicateWatch,
    result: Replicated,
) -> None:
    """Copy the small objects of these VMs that the target lacks. Raises RepositoryError."""
    copy = _SmallCopy(source, target, team, result, frozenset(vm_ids))
    copy.of_points(names.MARKS, lambda name: True)
    copy.of_points(names.DRILLS, lambda name: True)
    copy.of_points(names.CONTENTS, lambda name: True)
    copy.of_points(names.CHECKS, lambda name: f"-{findings.ENGINE}-" in name.rpartition("/")[2])
    copy.of_vms(names.SUCCESSIONS, 1)
    # The ended ones first, so that none looks open that has ended.
    copy.of_vms(names.control(DISTRUSTED.ended), 2)
    copy.of_vms(names.control(DISTRUSTED.begun), 2)
    _retire(source, target, frozenset(vm_ids), watch)


def _retire(source: Repository, target: Repository, vm_ids: frozenset[str], watch: ReplicateWatch) -> None:
    """Let the same VMs be retired in the target: one that is not any more must be backed up again."""
    try:
        in_source = {vm.id: vm for vm in retired.vms(source.store)}
        in_target = retired.ids(target.store)
        for vm_id in sorted(vm_ids & in_source.keys() - in_target):
            retired.add(target.store, in_source[vm_id])
        for vm_id in sorted(vm_ids & in_target - in_source.keys()):
            retired.remove(target.store, vm_id)
    except RepositoryError as error:
        watch.notify(f"cannot copy which VMs are retired: {error.message}")


@dataclass(slots=True)
class _SmallCopy:
    source: Repository
    target: Repository
    team: Team
    result: Replicated
    vm_ids: frozenset[str]
    _known: dict[str, set[str]] = field(default_factory=dict)

    def of_points(self, folder: str, is_wanted: Callable[[str], bool]) -> None:
        """Copy objects of the points that the target has: <folder>/<vm id>/<backup id>/…"""
        chosen = [
            name
            for name in self._lacking(folder)
            if len(parts := name.split("/")) > 3 and self._has_point(parts[1], parts[2]) and is_wanted(name)
        ]
        self._copy(chosen)

    def of_vms(self, folder: str, position: int) -> None:
        """Copy objects whose names have the VM's id at this position."""
        self._copy([name for name in self._lacking(folder) if name.split("/")[position] in self.vm_ids])

    def _lacking(self, folder: str) -> Iterator[str]:
        stored = set(self.target.store.list(folder))
        return self.source.store.list(folder, besides=stored)

    def _has_point(self, vm_id: str, backup_id: str) -> bool:
        if vm_id not in self.vm_ids:
            return False
        if vm_id not in self._known:
            known = self.target.catalog_of_vm(vm_id).known(vm_id)
            self._known[vm_id] = {each.backup_id for each in known.values()}
        return backup_id in self._known[vm_id]

    def _copy(self, chosen: list[str]) -> None:
        for copied in [self.team.start(self._copy_one, name) for name in chosen]:
            size = copied.result()
            if isinstance(size, Damage):
                self.result.note(size)
            elif size is not None:
                self.result.objects += 1
                self.result.bytes += size

    def _copy_one(self, name: str) -> int | Damage | None:
        """Copy one object. Return its size, its damage, or None if there is nothing to do."""
        try:
            stored = self.source.store.read(name, limit=_MAX_SMALL)
        except ObjectMissing:
            # Removed in the middle.
            return None
        try:
            if stored:
                canonical.parse(stored)
        except FormatError as error:
            return Damage(None, None, None, "corrupt", "record", f"{name} is damaged: {error.message}")
        try:
            self.target.store.create(name, stored)
        except ObjectExists:
            return None
        return len(stored)
