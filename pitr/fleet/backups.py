# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups on a fleet: each VM at home, on its host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pitr.errors import EngineError
from pitr.fleet.caps import Cap
from pitr.fleet.client import Fleet
from pitr.fleet.placement import Wanted
from pitr.fleet.tasks import FleetTask
from pitr.jobs.backup.one_task import BackupTask, MadePoint, told_to
from pitr.ovirt.engine import VM, Engine, list_vms, vm_disks
from pitr.reporting import Notify, Progress
from pitr.system.forked import Call

#: VMs migrate: the list of their hosts is at most so old.
_FRESH_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RepositoryOfFleet:
    """The repository that the workers write to. `wait_lock_s` as in FleetTask."""

    id: str
    wait_lock_s: float = 0.0


class FleetBackups:
    """Runs backups on the workers of a fleet. `caps` has the limits by their names; any number of threads use it."""

    is_remote = True

    def __init__(
        self, fleet: Fleet, engine: Engine, repository: RepositoryOfFleet, caps: Mapping[str, int]
    ) -> None:
        self._fleet = fleet
        self._engine = engine
        self._repository = repository
        self._caps_by_kind = caps
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._vms: dict[str, VM] = {}

    def back_up(
        self, task: BackupTask, progress: Progress | None, notify: Notify, stopped: Callable[[], bool]
    ) -> MadePoint:
        """Carry out the task on a worker, or here if none takes it. Raises PitrError."""
        vm = self._vm(task)
        wanted = Wanted(vm.host_id, vm.cluster_id) if vm is not None else Wanted()
        made: MadePoint = self._fleet.run(
            FleetTask(task, self._repository.id, self._repository.wait_lock_s),
            wanted,
            self._caps(vm),
            Call(told_to(progress, notify), stopped),
        )
        return made

    def _vm(self, task: BackupTask) -> VM | None:
        with self._lock:
            if time.monotonic() - self._read_at > _FRESH_S:
                try:
                    listed = list_vms(self._engine)
                except EngineError as error:
                    # Any worker can do it.
                    self._engine.log.info("%s", error)
                    return None
                # An id comes before a name.
                self._vms = {vm.name: vm for vm in listed} | {vm.id: vm for vm in listed}
                self._read_at = time.monotonic()
            return self._vms.get(task.key)

    def _caps(self, vm: VM | None) -> list[Cap]:
        most = self._caps_by_kind
        caps = []
        if "engine" in most:
            caps.append(Cap(f"engine {self._engine.where}", most["engine"]))
        if "repository" in most:
            caps.append(Cap(f"repository {self._repository.id}", most["repository"]))
        if "host" in most and vm is not None and vm.host_id is not None:
            caps.append(Cap(f"host {vm.host_id}", most["host"]))
        if "storage-domain" in most and vm is not None:
            domains = {domain for disk in vm_disks(self._engine, vm.id) for domain in disk.storage_domain_ids}
            caps += [Cap(f"storage domain {domain}", most["storage-domain"]) for domain in domains]
        return caps
