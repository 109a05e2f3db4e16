# SPDX-License-Identifier: GPL-2.0-or-later
"""Which worker gets a task: one on the VM's host, which has the unix socket; else one of the cluster; else any machine
that is no host. Without one of these, the caller does it itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

SLOTS: Final = "slots"
_HOST: Final = "host:"
_CLUSTER: Final = "cluster:"


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """A worker: its address, its number of tasks at the same time, and the host and cluster that it runs on."""

    address: str
    slots: int
    host_id: str | None = None
    cluster_id: str | None = None

    @property
    def resources(self) -> dict[str, float]:
        """What the worker registers with the scheduler."""
        found: dict[str, float] = {SLOTS: self.slots}
        if self.host_id is not None:
            found[f"{_HOST}{self.host_id}"] = self.slots
        if self.cluster_id is not None:
            found[f"{_CLUSTER}{self.cluster_id}"] = self.slots
        return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a task is at home: the host and cluster of its VM, None if unknown or if any will do."""

    host_id: str | None = None
    cluster_id: str | None = None


def places(workers: Mapping[str, Mapping[str, Any]]) -> list[WorkerPlace]:
    """Return the workers of pitr among those that a scheduler lists, by address."""
    found = []
    for address, worker in sorted(workers.items()):
        resources = worker.get("resources") or {}
        if SLOTS in resources:
            found.append(
                WorkerPlace(
                    address,
                    max(1, int(resources[SLOTS])),
                    _named(resources, _HOST),
                    _named(resources, _CLUSTER),
                )
            )
    return found


def _named(resources: Iterable[str], kind: str) -> str | None:
    return next((name.removeprefix(kind) for name in resources if name.startswith(kind)), None)


def tiers(
    workers: Iterable[WorkerPlace], wanted: Wanted, excluded: Collection[str] = ()
) -> list[list[WorkerPlace]]:
    """Return the workers that may do the task, the best first: a list for each rank. Unsuitable ones are left out."""
    ranks: list[list[WorkerPlace]] = [[], [], []]
    for worker in workers:
        if worker.address in excluded:
            continue
        if wanted == Wanted() or (wanted.host_id is not None and worker.host_id == wanted.host_id):
            ranks[0].append(worker)
        elif wanted.cluster_id is not None and worker.cluster_id == wanted.cluster_id:
            ranks[1].append(worker)
        elif worker.cluster_id is None:
            ranks[2].append(worker)
    return [rank for rank in ranks if rank]
