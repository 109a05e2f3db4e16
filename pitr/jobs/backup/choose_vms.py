# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose the VMs to back up: by name, by tag, all of them, or those that the repository already holds."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.errors import UsageError
from pitr.jobs.backup import many_vms
from pitr.jobs.backup.many_vms import Chosen
from pitr.ovirt.engine import Engine
from pitr.repository import Repository


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
        if not self.is_empty:
            names = tuple(Chosen(name, name) for name in dict.fromkeys(self.vms))
            return KnownSelection(names, self.tags, self.every)
        known = tuple(Chosen(vm.id, vm.name) for vm in repository.catalog.vms())
        if not known:
            raise UsageError(
                "no VM is named, and the repository holds no VM yet",
                "Name the VMs: pitr backup VM... (or use --tag TAG or --all).",
            )
        return KnownSelection(known, (), False)


@dataclass(frozen=True, slots=True)
class KnownSelection:
    """A selection that is not empty; `vms` are the named VMs."""

    vms: tuple[Chosen, ...]
    tags: tuple[str, ...]
    every: bool

    def on_engine(self, engine: Engine) -> list[Chosen]:
        """Return the selected VMs, each once. Raises UsageError for a tag that no VM has, and EngineError."""
        return many_vms.choose(engine, self.vms, self.tags, every=self.every)
