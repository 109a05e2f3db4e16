# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a backup in the background, from its start to its end."""

from __future__ import annotations

import logging
import time

from pitr.errors import LabError, PitrError
from pitr.lab.engine import checkpoints, events
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.state import VM, Backup, Checkpoint, Disk, new_id

log = logging.getLogger("pitr.lab.engine")


def start(installation: Installation, vm: VM, backup: Backup) -> None:
    """Run the phases of `backup` in a new thread."""
    installation.workers.start(f"backup {backup.id[:8]}", _SimulatedBackup(installation, vm, backup).run)


def lose_chain(installation: Installation, vm: VM, backup: Backup) -> None:
    """Lose the VM's checkpoints, and let `backup`, which needs them, fail a while later."""
    lost = checkpoints.lose_all(installation, vm, backup=backup)

    def work() -> None:
        checkpoints.remove_bitmaps(installation, lost)
        installation.lag()
        _SimulatedBackup(installation, vm, backup).fail("its checkpoints cannot be redefined")

    installation.workers.start(f"backup {backup.id[:8]}", work)


def set_phase(installation: Installation, backup: Backup, phase: str) -> None:
    """Set the phase and the modification date, which each change of a backup updates."""
    with installation.state.lock:
        backup.phase = phase
        backup.history.append(phase)
        backup.modified = installation.clock.now()
        if backup.ended:
            backup.ended_at = time.monotonic()
        installation.state.lock.notify_all()


class _SimulatedBackup:
    def __init__(self, installation: Installation, vm: VM, backup: Backup) -> None:
        self._installation = installation
        self._state = installation.state
        self._vm = vm
        self._backup = backup
        self._begun = False
        self._checkpoint: Checkpoint | None = None

    def run(self) -> None:
        try:
            self._begin()
            self._await_finalize()
        except PitrError as error:
            self.fail(error.message)
            return
        self._end()

    def fail(self, why: str) -> None:
        """End the backup in phase failed, and remove it and its checkpoint from the host."""
        try:
            self._take_back()
        except PitrError as error:
            # The host has lost it already, for example with the VM.
            log.warning("leftovers of backup %s: %s", self._backup.id, error.message)
        self._release_disks()
        self._record(events.BACKUP_FAILED, f"Backup {self._backup.id} for VM {self._vm.name} failed: {why}.")
        set_phase(self._installation, self._backup, "failed")

    def _take_back(self) -> None:
        with self._installation.host_lock:
            if self._checkpoint is not None:
                with self._state.lock:
                    if self._checkpoint in self._vm.checkpoints:
                        checkpoints.take_out(self._vm, self._checkpoint)
            if self._begun:
                self._installation.host.end_backup(self._backup.id)
            if self._checkpoint is not None:
                checkpoints.remove_bitmaps(self._installation, [self._checkpoint])

    def _begin(self) -> None:
        backup = self._backup
        self._checkpoint = self._new_checkpoint()
        if backup.mode == "hybrid" and self._checkpoint is not None:
            with self._state.lock:
                backup.to_checkpoint_id = self._checkpoint.id
        self._lag()
        if backup.mode == "live":
            self._add_scratch_disks()
            self._lag()
        if backup.mode != "cold":
            set_phase(self._installation, backup, "starting")
            self._lag()
        if backup.mode == "live" and backup.require_consistency and self._vm.freeze_fails:
            raise LabError("the guest's file systems cannot be frozen")
        if self._installation.faults.happens("backup start"):
            raise LabError("a test made it fail")
        readable = dict(backup.disks)
        if self._installation.faults.happens("bitmap"):
            readable[next(iter(readable))] = None
        with self._installation.host_lock:
            self._leave_out_lost_bitmaps(readable)
            self._installation.host.begin_backup(
                self._vm.id, backup.id, readable, self._checkpoint.id if self._checkpoint else None
            )
            self._begun = True
        self._keep_checkpoint()
        self._lag()
        if backup.finalize_asked:
            set_phase(self._installation, backup, "finalizing")
        else:
            self._get_ready()

    def _leave_out_lost_bitmaps(self, readable: dict[str, str | None]) -> None:
        """In hybrid and cold mode the engine starts a backup without its bitmaps; its transfers fail."""
        if self._backup.mode == "live":
            return
        for disk_id, since in readable.items():
            if since is not None and since not in self._installation.host.checkpoints(disk_id):
                readable[disk_id] = None
                self._backup.lost_bitmaps.add(disk_id)

    def _new_checkpoint(self) -> Checkpoint | None:
        # Only qcow2 disks join the checkpoint, regardless of their setting for incremental backup.
        with self._state.lock:
            members = [each for each in self._backup.disks if self._state.disk(each).format == "cow"]
            if not members:
                return None
            chain = self._vm.checkpoints
            return Checkpoint(
                id=new_id(),
                vm_id=self._vm.id,
                parent_id=chain[-1].id if chain else None,
                # Live and cold: a lower bound of the true instant. Hybrid sets it after the snapshot.
                created=self._installation.clock.now(),
                disk_ids=members,
                description=self._backup.description,
            )

    def _keep_checkpoint(self) -> None:
        with self._state.lock:
            if self._backup.mode == "hybrid":
                self._backup.snapshot_id = new_id()
                if self._checkpoint is not None:
                    self._checkpoint.created = self._installation.clock.now()
            if self._checkpoint is not None:
                self._vm.checkpoints.append(self._checkpoint)
                self._backup.to_checkpoint_id = self._checkpoint.id
            self._backup.modified = self._installation.clock.now()

    def _get_ready(self) -> None:
        with self._state.lock:
            if self._backup.abort_asked:
                raise LabError("it was stopped before it was ready")
            set_phase(self._installation, self._backup, "ready")

    def _await_finalize(self) -> None:
        with self._state.lock:
            while not self._backup.finalize_asked:
                self._state.lock.wait(0.5)
                self._installation.workers.sleep(0)
                if self._backup.abort_asked:
                    raise LabError("the VM went down")

    def _end(self) -> None:
        installation, backup = self._installation, self._backup
        self._record(events.BACKUP_FINALIZED, f"Backup {backup.id} for VM {self._vm.name} finalized.")
        installation.lag()
        try:
            with installation.host_lock:
                installation.host.end_backup(backup.id)
        except PitrError as error:
            self._record(
                events.BACKUP_FINALIZE_FAILED, f"Backup {backup.id} cannot be finalized: {error.message}"
            )
            self._release_disks()
            set_phase(installation, backup, "failed")
            return
        installation.lag()
        if backup.snapshot_id is not None and installation.faults.happens("snapshot removal"):
            with self._state.lock:
                self._vm.snapshots_left.append(backup.snapshot_id)
            self._record(events.SNAPSHOT_LEFT, f"The snapshot of backup {backup.id} cannot be removed.")
        self._release_disks()
        self._record(events.BACKUP_SUCCEEDED, f"Backup {backup.id} for VM {self._vm.name} succeeded.")
        set_phase(installation, backup, "succeeded")

    def _lag(self) -> None:
        self._installation.lag()
        with self._state.lock:
            if self._backup.abort_asked:
                raise LabError("it was stopped before it was ready")

    def _add_scratch_disks(self) -> None:
        with self._state.lock:
            for disk_id in self._backup.disks:
                disk = self._state.disk(disk_id)
                scratch = Disk(
                    id=new_id(),
                    name=f"VM {self._vm.name} backup {self._backup.id} scratch disk for {disk.name}",
                    size=disk.size,
                    format="cow",
                    sparse=True,
                    incremental=False,
                    storage_domain_id=disk.storage_domain_id,
                    content_type="backup_scratch",
                )
                self._state.disks[scratch.id] = scratch
                self._backup.scratch_ids.append(scratch.id)

    def _release_disks(self) -> None:
        with self._state.lock:
            for scratch_id in self._backup.scratch_ids:
                self._state.disks.pop(scratch_id, None)
            self._backup.scratch_ids.clear()
            for disk_id in self._backup.disks:
                if disk_id in self._state.disks and not self._state.active_transfers(disk_id=disk_id):
                    self._state.disks[disk_id].status = "ok"

    def _record(self, code: int, description: str) -> None:
        events.record(
            self._installation,
            code,
            description,
            subject_id=self._backup.id,
            vm_id=self._vm.id,
            correlation_id=self._backup.correlation_id,
        )
