# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the VMs to back up: by name, by tag, all of them, or those that the repository already holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pitr.errors import NoSuchVM, NothingToBackUp, UsageError
from pitr.jobs.backup import many_vms
from pitr.jobs.backup.many_vms import Chosen, Outcome
from pitr.ovirt.engine import Engine, get_vm, list_vms
from pitr.repository import Repository, retired

_RETIRED = "it is retired ('pitr forget VM --unretire' ends that)"
_IMPORTED = "its points were only imported (to back it up, name it once)"
_GONE = "the engine does not have it any more ('pitr forget VM --retire' ends this note)"
_REPLACED = (
    "the engine does not have it any more; another VM has its name now (to back that one up, name it once)"
)


@dataclass(frozen=True, slots=True)
class VMSelection:
    """VMs by name or id, VMs with any of the tags, or `every` VM on the engine."""

    vms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    every: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.vms or self.tags or self.every)

    def or_known(self, repository: Repository) -> KnownSelection:
        """Return the selection; if it is empty, all VMs in the repository. Raises UsageError if there are none."""
        left_out = dict.fromkeys(retired.ids(repository.store), _RETIRED)
        if not self.is_empty:
            names = tuple(Chosen(name, name) for name in dict.fromkeys(self.vms))
            return KnownSelection(names, self.tags, self.every, left_out=left_out)
        known = tuple(Chosen(vm.id, vm.name) for vm in repository.catalog.vms())
        if not known:
            raise UsageError(
                "no VM is named, and the repository holds no VM yet",
                "Name the VMs: pitr backup VM... (or use --tag TAG or --all).",
            )
        left_out = {**dict.fromkeys(repository.catalog.only_imported(), _IMPORTED), **left_out}
        return KnownSelection(known, (), False, unnamed=True, left_out=left_out)


@dataclass(frozen=True, slots=True)
class VMsOnEngine:
    """The VMs to back up, and for each VM that is left out an outcome with the reason."""

    vms: list[Chosen]
    skipped: list[Outcome]


@dataclass(frozen=True, slots=True)
class KnownSelection:
    """A selection that is not empty; `vms` are the named VMs.

    `unnamed`: the user named no `vms`; they are the VMs of the repository. `left_out`: the reasons why VMs that
    are not named are left out, by id.
    """

    vms: tuple[Chosen, ...]
    tags: tuple[str, ...]
    every: bool
    unnamed: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    def on_engine(self, engine: Engine) -> VMsOnEngine:
        """Return the selected VMs, each once. Raises UsageError for a tag that no VM has, and EngineError."""
        chosen = many_vms.choose(engine, self.vms, self.tags, every=self.every)
        named = set() if self.unnamed else {vm.key for vm in self.vms}
        reasons = {key: reason for key, reason in self.left_out.items() if key not in named}
        if self.unnamed:
            reasons = {**_gone(engine, [vm for vm in chosen if vm.key not in reasons]), **reasons}
        return VMsOnEngine(
            [vm for vm in chosen if vm.key not in reasons],
            [Outcome(vm, None, NothingToBackUp(reasons[vm.key]), 0.0) for vm in chosen if vm.key in reasons],
        )


def _gone(engine: Engine, vms: Iterable[Chosen]) -> dict[str, str]:
    """Return the reasons for the VMs that the engine does not have any more, by id."""
    listed = {vm.id: vm.name for vm in list_vms(engine)}
    names = set(listed.values())
    reasons: dict[str, str] = {}
    for vm in vms:
        if vm.key not in listed:
            try:
                # A list is not enough to call a VM gone.
                get_vm(engine, vm.key)
            except NoSuchVM:
                reasons[vm.key] = _REPLACED if vm.name in names else _GONE
    return reasons
