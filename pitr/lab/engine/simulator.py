# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole simulated engine, which tests start, control and close."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from pitr.lab.engine import checkpoints
from pitr.lab.engine.clock import Clock
from pitr.lab.engine.faults import Faults
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.server import EngineServer, ServedRequest
from pitr.lab.engine.sso import Tokens
from pitr.lab.engine.state import State, StorageDomain
from pitr.lab.host.host import Host


class Simulator:
    """A simulated oVirt engine in front of `host`, over HTTPS; a context manager.

    `phase_lag_s` is how long each step of a background operation takes at least.
    """

    def __init__(self, host: Host, clock: Clock, *, username: str, password: str, phase_lag_s: float) -> None:
        self.tokens = Tokens(username, password)
        self.faults = Faults(self.tokens.expire_all)
        self.installation = Installation(host, clock, self.faults, phase_lag_s)
        self._server = EngineServer(
            self.installation,
            self.tokens,
            certificate=host.certificate,
            private_key=host.private_key,
            cafile=host.cafile,
        )

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        with ExitStack() as closing:
            closing.callback(self._server.close)
            closing.callback(self.installation.workers.close, self._wake)

    def _wake(self) -> None:
        with self.state.lock:
            self.state.lock.notify_all()

    @property
    def url(self) -> str:
        return f"https://localhost:{self._server.port}"

    @property
    def state(self) -> State:
        return self.installation.state

    @property
    def phase_lag_s(self) -> float:
        return self.installation.phase_lag_s

    @phase_lag_s.setter
    def phase_lag_s(self, seconds: float) -> None:
        self.installation.phase_lag_s = seconds

    @contextmanager
    def phases_held(self) -> Iterator[None]:
        """Hold all background operations at their current step inside this context."""
        self.installation.phases_held = True
        try:
            yield
        finally:
            self.installation.phases_held = False

    def phases_of(self, entity_id: str) -> list[str]:
        """Return all past and present phases of a backup or transfer, in order. Raises KeyError."""
        with self.state.lock:
            if entity_id in self.state.backups:
                return list(self.state.backups[entity_id].history)
            return list(self.state.transfers[entity_id].history)

    @property
    def requests(self) -> list[ServedRequest]:
        """Return (method, path with query, status) of all requests so far; status 0: no answer was sent."""
        return self._server.requests

    def forget_requests(self) -> None:
        self._server.forget_requests()

    @property
    def failures(self) -> list[BaseException]:
        """The errors of the simulator's background threads: empty unless it has a bug."""
        return self.installation.workers.failures

    def add_storage_domain(
        self, name: str, *, storage_type: str = "nfs", active: bool = True
    ) -> StorageDomain:
        domain = StorageDomain(name, storage_type, active)
        with self.state.lock:
            self.state.storage_domains[domain.id] = domain
        return domain

    def keep_ended(self, *, success_s: float, failure_s: float) -> None:
        """Set how many seconds the engine keeps ended backups and transfers."""
        with self.state.lock:
            self.state.keep_success_s = success_s
            self.state.keep_failure_s = failure_s

    def lose_checkpoints(self, vm_id: str, *, at_next_backup: bool = False) -> None:
        """Lose the VM's chain of checkpoints, now or when the next incremental backup needs it.

        The latter: the request is answered 400 with detail `[]`, and its backup takes a while to fail.
        """
        with self.state.lock:
            vm = self.state.vm(vm_id)
            if at_next_backup:
                vm.chain_breaks = True
                return
        lost = checkpoints.lose_all(self.installation, vm)
        checkpoints.remove_bitmaps(self.installation, lost)

    def stop_transfers(self, disk_id: str) -> None:
        """Stop the open transfers of a disk like the engine itself: they pass through `cancelled_system`."""
        with self.state.lock:
            for transfer in self.state.active_transfers(disk_id=disk_id):
                transfer.asked = "cancel by system"
            self.state.lock.notify_all()

    def pause_transfers(self, disk_id: str) -> None:
        """Pause the open transfers of a disk like the engine itself, as after too long without use."""
        with self.state.lock:
            for transfer in self.state.active_transfers(disk_id=disk_id):
                transfer.asked = transfer.asked or "pause by system"
            self.state.lock.notify_all()

    def invalidate_checkpoint(self, checkpoint_id: str) -> None:
        """Make a checkpoint `invalid`: it is still listed, but no backup can start from it."""
        with self.state.lock:
            for vm in self.state.vms.values():
                for checkpoint in vm.checkpoints:
                    if checkpoint.id == checkpoint_id:
                        checkpoint.state = "invalid"
                        return
        raise LookupError(f"there is no checkpoint {checkpoint_id}")

    def restore_snapshot(self, vm_id: str) -> None:
        """Make all checkpoints of the VM invalid, like restoring a snapshot."""
        with self.state.lock:
            for checkpoint in self.state.vm(vm_id).checkpoints:
                checkpoint.state = "invalid"

    def set_vm(
        self,
        vm_id: str,
        *,
        status: str | None = None,
        previewing: bool | None = None,
        freeze_fails: bool | None = None,
        ignores_shutdown: bool | None = None,
        hosts_engine: bool = False,
    ) -> None:
        """Put a VM into a state in which backups fail, or its guest cannot freeze its file systems or shut down."""
        with self.state.lock:
            vm = self.state.vm(vm_id)
            vm.status = vm.status if status is None else status
            vm.origin = "managed_hosted_engine" if hosts_engine else vm.origin
            vm.previewing = vm.previewing if previewing is None else previewing
            vm.freeze_fails = vm.freeze_fails if freeze_fails is None else freeze_fails
            vm.ignores_shutdown = vm.ignores_shutdown if ignores_shutdown is None else ignores_shutdown

    def set_disk_status(self, disk_id: str, status: str) -> None:
        """Set the status of a disk to "ok", "locked" or "illegal"."""
        with self.state.lock:
            self.state.disk(disk_id).status = status
