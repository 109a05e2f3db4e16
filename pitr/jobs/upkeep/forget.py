# SPDX-License-Identifier: GPL-2.0-or-later
"""Forget points that a person names, or all points of VMs, as safely as `pitr prune` removes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pitr.errors import UsageError
from pitr.jobs import holds
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of_vm
from pitr.jobs.upkeep.consolidation import KeptBy
from pitr.jobs.upkeep.prune import DeleteExternal, Removal
from pitr.jobs.upkeep.pruned import Pruned
from pitr.model import Backup, VMName, parents_of
from pitr.reporting import Notify
from pitr.repository import Repository
from pitr.text import printable
from pitr.times import for_people

#: Why the other points of the VM stay.
_NOT_NAMED = "not named"


def forget(
    repository: Repository,
    points: Sequence[Backup],
    vms: Sequence[VMName],
    *,
    dry_run: bool = False,
    delete_external: DeleteExternal | None = None,
    notify: Notify,
) -> Pruned:
    """Remove these points and all points of `vms`.

    Raises UsageError, before it removes anything, if another point is based on one of them. The rest is as in `prune`:
    the result lists VMs that are busy and failures.
    """
    chosen = _by_vm(points, vms)
    for vm, ids in chosen.items():
        # Before the first removal: a mistake in one name must not cost the points of another VM.
        _keep_others(repository.catalog.points(vm.id), facts_of_vm(repository, vm.id), ids=ids)
    removal = Removal(repository, dry_run, delete_external, notify)
    for vm, ids in chosen.items():
        removal.from_vms([vm], partial(_keep_others, ids=ids))
    return removal.result


def _by_vm(points: Sequence[Backup], vms: Sequence[VMName]) -> Mapping[VMName, frozenset[str] | None]:
    """Return the ids of the points to forget by VM; None for all of a VM's points."""
    whole = {vm.id for vm in vms}
    ids: dict[str, set[str]] = {}
    names: dict[str, VMName] = {}
    for backup in points:
        ids.setdefault(backup.vm.id, set()).add(backup.backup_id)
        names.setdefault(backup.vm.id, backup.vm)
    return {
        **dict.fromkeys(vms),
        **{names[vm_id]: frozenset(chosen) for vm_id, chosen in ids.items() if vm_id not in whole},
    }


def _keep_others(
    points: Sequence[Backup], facts: Mapping[str, PointFacts], *, ids: frozenset[str] | None
) -> KeptBy:
    """Return the points of a VM that stay. Raises UsageError if one that goes is held or needed by one that stays."""
    for backup in points:
        hold = facts.get(backup.backup_id, NO_FACTS).marks.hold
        if hold is not None and (ids is None or backup.backup_id in ids):
            name = printable(backup.vm.name)
            raise UsageError(
                f"{backup.backup_id}, the point of VM {name} at {for_people(backup.point)}, is {holds.in_words(hold)}",
                f"End the rollback first: pitr rollback --continue {name}."
                if hold.by_rollback
                else f"To forget it, release it first: pitr release {backup.backup_id}.",
            )
    return _keep(points, ids)


def _keep(points: Sequence[Backup], ids: frozenset[str] | None) -> KeptBy:
    """Return the points of a VM that stay. Raises UsageError if one of them is based on a point that goes."""
    if ids is None:
        return {}
    parents = parents_of(points)
    staying: dict[str, list[str]] = {}
    for backup in points:
        if backup.backup_id not in ids:
            for ancestor in _ancestors(backup.backup_id, parents):
                staying.setdefault(ancestor, []).append(backup.backup_id)
    for backup in points:
        if backup.backup_id in ids and backup.backup_id in staying:
            raise _needed(backup, staying[backup.backup_id])
    return {backup.backup_id: [_NOT_NAMED] for backup in points if backup.backup_id not in ids}


def _ancestors(backup_id: str, parents: Mapping[str, str | None]) -> list[str]:
    path: list[str] = []
    current = parents.get(backup_id)
    while current is not None and current not in path:
        path.append(current)
        current = parents.get(current)
    return path


def _needed(backup: Backup, staying: Sequence[str]) -> UsageError:
    return UsageError(
        f"other points are based on {backup.backup_id}, the point of VM {printable(backup.vm.name)} at "
        f"{for_people(backup.point)}: {', '.join(staying)}",
        "Name them too, or keep this point.",
    )
