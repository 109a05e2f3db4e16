# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the VMs of a policy: those that the engine has now, and those whose points the repository holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pitr.errors import UsageError
from pitr.jobs.backup.choose_vms import VMSelection
from pitr.jobs.backup.many_vms import Chosen, Outcome
from pitr.jobs.policy_run.policy import Choice
from pitr.model import VMName, known_name
from pitr.ovirt.engine import Disk, Engine, list_vms, vms_with_tag
from pitr.repository import Repository
from pitr.repository.history import RunOutcome


@dataclass(slots=True)
class ChosenVMs:
    """The VMs to back up, the outcomes of those that are skipped, and what of the choice failed.

    `on_engine` has the ids of all VMs that the user sees on the engine.
    """

    vms: list[Chosen] = field(default_factory=list)
    skipped: list[Outcome] = field(default_factory=list)
    failures: list[UsageError] = field(default_factory=list)
    on_engine: frozenset[str] = frozenset()


def choose_vms(repository: Repository, engine: Engine, choice: Choice) -> ChosenVMs:
    """Return the policy's VMs on the engine, each once, by name. Raises EngineError.

    A tag that no VM has is a failure in the result; the others count. A named VM that the engine does not have is
    chosen, and its backup says why it fails.
    """
    listed = list_vms(engine)
    names = Counter(vm.name for vm in listed)
    # The backup refuses a name that several VMs have.
    by_name = {vm.name: vm.id for vm in listed if names[vm.name] == 1}
    found = ChosenVMs(on_engine=frozenset(vm.id for vm in listed))
    selections = [
        *([VMSelection(vms=choice.vms)] if choice.vms else []),
        *(VMSelection(tags=(tag,)) for tag in choice.tags),
        *([VMSelection(every=True)] if choice.every else []),
    ]
    chosen: dict[str, Chosen] = {}
    skipped: dict[str, Outcome] = {}
    for selection in selections:
        try:
            of_selection = selection.or_known(repository).on_engine(engine)
        except UsageError as error:
            found.failures.append(error)
            continue
        for vm in of_selection.vms:
            key = by_name.get(vm.key, vm.key)
            chosen.setdefault(key, Chosen(key, vm.name))
        skipped |= {outcome.vm.key: outcome for outcome in of_selection.skipped}
    unwanted = _with_tags(engine, choice.exclude_tags)
    found.vms = sorted(
        (vm for vm in chosen.values() if not _is_excluded(choice, vm, unwanted)), key=lambda vm: vm.name
    )
    found.skipped = [
        outcome
        for key, outcome in skipped.items()
        if key not in chosen and not _is_excluded(choice, outcome.vm, unwanted)
    ]
    return found


def _with_tags(engine: Engine, tags: Sequence[str]) -> set[str]:
    return {vm.id for tag in tags for vm in vms_with_tag(engine, tag)}


def _is_excluded(choice: Choice, vm: Chosen, unwanted: set[str]) -> bool:
    return vm.key in unwanted or any(
        pattern == vm.key or fnmatchcase(vm.name, pattern) for pattern in choice.exclude
    )


def members(
    repository: Repository, choice: Choice, chosen: ChosenVMs | None, last: RunOutcome | None
) -> list[VMName]:
    """Return the VMs whose points the policy removes, verifies and drills, by name.

    They are the chosen VMs (None: the engine could not be asked), the named ones, and those of the last run that the
    engine does not have any more: their points age, too. A sealed name comes from the engine. Raises RepositoryError.
    """
    on_engine = {vm.key: vm.name for vm in chosen.vms} if chosen is not None else {}
    wanted = set(choice.vms)
    earlier = {step.vm.id for step in last.steps if step.vm is not None} if last is not None else set()
    if chosen is not None:
        wanted |= {vm.key for vm in chosen.vms} | {outcome.vm.key for outcome in chosen.skipped}
        earlier -= chosen.on_engine
    wanted |= {vm_id for vm_id in earlier if vm_id is not None}
    return sorted(
        (
            vm
            for vm in (_named(vm, on_engine) for vm in repository.catalog.vms())
            if {vm.id, vm.name} & wanted and not _is_excluded(choice, Chosen(vm.id, vm.name), set())
        ),
        key=lambda vm: vm.name,
    )


def _named(vm: VMName, on_engine: Mapping[str, str]) -> VMName:
    """Return the VM; with its name on the engine if its name in the repository is sealed."""
    if known_name(vm.name) is None and vm.id in on_engine:
        return VMName(vm.id, on_engine[vm.id])
    return vm


def excluded_disks(choice: Choice, vm: Chosen, disks: Sequence[Disk]) -> tuple[str, ...]:
    """Return the ids of the VM's disks that `exclude_disks` means: patterns of names, ids, or VM/DISK."""

    def matches(pattern: str, disk: Disk) -> bool:
        of_vm, separator, name = pattern.partition("/")
        if separator and not (of_vm == vm.key or fnmatchcase(vm.name, of_vm)):
            return False
        wanted = name if separator else pattern
        return wanted == disk.id or fnmatchcase(disk.name, wanted)

    return tuple(disk.id for disk in disks if any(matches(pattern, disk) for pattern in choice.exclude_disks))
