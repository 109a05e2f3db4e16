# SPDX-License-Identifier: GPL-2.0-or-later
"""A run as a list of commands with their hosts, for schedulers that are not Dask."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pitr.jobs.backup.many_vms import Chosen
from pitr.model import VMName
from pitr.ovirt.engine import Engine, host_names, list_vms


@dataclass(frozen=True, slots=True)
class PlannedCommand:
    """The command for one VM, and the host where it belongs; None if any host of the cluster will do."""

    vm: VMName
    host_id: str | None
    host_name: str | None
    cluster_id: str | None
    cluster_name: str | None

    @property
    def command(self) -> list[str]:
        """The words of the command. An id stays true when a VM is renamed."""
        return ["pitr", "backup", self.vm.id]

    @property
    def text(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)

    @property
    def document(self) -> dict[str, Any]:
        """The command as docs/json.md describes it."""
        return {
            "vm": {"id": self.vm.id, "name": self.vm.name},
            "host": None if self.host_id is None else {"id": self.host_id, "name": self.host_name},
            "cluster": None
            if self.cluster_id is None
            else {"id": self.cluster_id, "name": self.cluster_name},
            "command": self.command,
        }


def plan_of(engine: Engine, chosen: Sequence[Chosen]) -> list[PlannedCommand]:
    """Return the commands in the order of `chosen`; VMs that the engine does not have are left out. Raises EngineError.

    pitr asks for all VMs and hosts at once: three requests, however many there are.
    """
    hosts = host_names(engine)
    listed = list_vms(engine)
    vms = {vm.name: vm for vm in listed} | {vm.id: vm for vm in listed}
    return [
        PlannedCommand(
            VMName(vm.id, vm.name),
            vm.host_id,
            hosts.get(vm.host_id) if vm.host_id is not None else None,
            vm.cluster_id,
            vm.cluster_name,
        )
        for key in (each.key for each in chosen)
        if (vm := vms.get(key)) is not None
    ]
