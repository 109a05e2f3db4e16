# SPDX-License-Identifier: GPL-2.0-or-later
"""Retire VMs: their points stay, and backups leave them out unless they name them."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.errors import NoSuchVM
from pitr.jobs import find
from pitr.jobs.facts import NO_FACTS, facts_of_vm
from pitr.jobs.upkeep.pruned import Pruned
from pitr.model import VMName
from pitr.repository import Repository, retired

#: Why the points of a VM stay.
_RETIRED = "retired"


def retire(repository: Repository, vms: Sequence[VMName], *, dry_run: bool = False) -> Pruned:
    """Retire the VMs. Return all their points as kept. Raises RepositoryError."""
    result = Pruned()
    for vm in vms:
        if not dry_run:
            retired.add(repository.store, vm)
        facts = facts_of_vm(repository, vm.id)
        for backup in repository.catalog_of_vm(vm.id).points(vm.id):
            result.kept.add(backup, [_RETIRED], facts.get(backup.backup_id, NO_FACTS))
    return result


def unretire(repository: Repository, vms: Sequence[VMName], *, dry_run: bool = False) -> None:
    """End the retirement of the VMs. Raises RepositoryError."""
    for vm in vms:
        if not dry_run:
            retired.remove(repository.store, vm.id)


def retired_vm(repository: Repository, name: str) -> VMName:
    """Return the retired VM with this id, or with this name now or when it was retired. Raises NoSuchVM, UsageError."""
    known = retired.vms(repository.store)
    now = {vm.id: vm for vm in repository.catalog.vms()}
    entries = [(vm.id, vm.name, vm) for vm in known]
    entries += [(vm.id, now[vm.id].name, vm) for vm in known if vm.id in now]
    vm = find.by_id_or_name(name, "retired VMs", entries)
    if vm is None:
        names = ", ".join(each.name for each in known)
        raise NoSuchVM(f"no VM {name!r} is retired", f"Retired VMs: {names or 'none'}.")
    return vm
