# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one backup on the engine: start it, wait for it, and finalize it in any case."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ovirtsdk4 import types

from pitr.errors import CheckpointGone, EngineBusy, EngineError, NoSuchDisk, NoSuchVM, NothingToBackUp
from pitr.model import Mode
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.checkpoints import get_checkpoint
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.disks import get_disk
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.finalizing import Finalizing
from pitr.ovirt.engine.started_backup import BackupDisk, StartedBackup, point_interval
from pitr.ovirt.engine.values import enum_text, required, utc
from pitr.ovirt.engine.vms import VM, same_vm_now
from pitr.ovirt.engine.wait import pauses

#: The states of a VM in which no backup can start until somebody acts.
_STUCK = frozenset({"suspended", "paused", "not_responding", "image_illegal"})
#: The engine refuses a longer description.
_LONGEST_DESCRIPTION = 1024
#: Seconds after READY in which the checkpoint's id and the disks' modes can still be missing.
_LATE_S = 30.0
#: Seconds that an abandoned backup gets to become ready. Finalized earlier, it fails and can damage the checkpoints.
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """A backup to start.

    `backup_id` is a UUID that the caller chooses and records first, so that a later run can clean up. An
    incremental backup starts from `from_checkpoint_id`; None means a full backup.
    """

    disk_ids: tuple[str, ...]
    backup_id: str
    from_checkpoint_id: str | None = None
    description: str = ""
    require_consistency: bool = False


def start_backup(
    engine: Engine, vm: VM, request: BackupRequest, *, busy_wait_s: float = 0.0, timeout_s: float = 900.0
) -> RunningBackup:
    """Return the requested backup of `vm`; entering it starts it.

    It waits up to `busy_wait_s` while the VM is busy, and up to `timeout_s` for each phase of the engine.
    """
    return RunningBackup(engine, vm, request, busy_wait_s, timeout_s)


class RunningBackup(Finalizing):
    """A backup of one VM; a context manager.

    Entering it returns when clients can read the data. It raises CheckpointGone (take a full backup), EngineBusy,
    NoSuchVM, NoSuchDisk or EngineError, and then leaves nothing on the engine. Leaving it finalizes the backup.
    After that, `succeeded` is whether the engine reports success; before that it is None.
    """

    def __init__(
        self, engine: Engine, vm: VM, request: BackupRequest, busy_wait_s: float, timeout_s: float
    ) -> None:
        self.id = request.backup_id
        self.vm = vm
        self.succeeded: bool | None = None
        self._engine = engine
        self._request = request
        self._busy_wait_s = busy_wait_s
        self._timeout_s = timeout_s
        self._running = False
        self._stuck = False
        self._started: StartedBackup | None = None

    @property
    def started(self) -> StartedBackup:
        """The ready backup as the engine reports it. Raises EngineError before the backup is entered."""
        if self._started is None:
            raise EngineError(f"backup {self.id} has not started")
        return self._started

    def check_still_ready(self) -> None:
        """Check that the backup is still ready on the engine. Raises EngineError if it is not."""
        found = self._get()
        phase = "gone" if found is None else enum_text(found.phase)
        if phase != "ready":
            raise EngineError(
                f"{self._name} ended on the engine too early (it is {phase})",
                "Check the engine's events, then take the backup again.",
            )

    def finalize(self) -> bool:
        """Finalize the backup, wait for its end and return whether the engine reports success.

        Waits for transfers of the backup that still run. Can be called again. Raises EngineError after a timeout.
        """
        if self.succeeded is None:
            self.succeeded = self._finalize(self._timeout_s)
        return self.succeeded

    # -- starting

    def _prepare(self) -> None:
        vm = same_vm_now(self._engine, self.vm)
        if vm.hosts_engine:
            raise self._is_hosted_engine()
        self._running = vm.running
        self._stuck = vm.status in _STUCK

    def _start(self) -> None:
        self._post_when_free()
        self._started = self._read_ready(self._wait_until_ready())

    def _post_when_free(self) -> None:
        for last in pauses(self._busy_wait_s, self._engine.poll_interval_s):
            try:
                self._post()
                return
            except EngineBusy as busy:
                if last:
                    raise
                self._engine.log.debug("%s; waiting", busy.message)

    def _post(self) -> None:
        new = types.Backup(
            id=self.id,
            description=self._request.description[:_LONGEST_DESCRIPTION] or None,
            from_checkpoint_id=self._request.from_checkpoint_id,
            disks=[types.Disk(id=disk_id) for disk_id in self._request.disk_ids],
        )
        what = f"starting a backup of VM {self.vm.name!r}"
        consistency = True if self._request.require_consistency else None
        for tries_left in (2, 1, 0):
            try:
                self._engine.call(
                    what,
                    lambda system: self._services(system).add(new, require_consistency=consistency),
                    idempotent=False,
                )
                return
            except EngineFault as fault:
                # The answer may be lost, or the SDK may have sent the request twice: check whether the backup exists.
                found = self._get()
                if found is not None and enum_text(found.phase) != "failed":
                    self._engine.log.info("%s; the backup exists nevertheless, continuing", fault.message)
                    return
                if found is not None or not fault.transient or tries_left == 0:
                    raise self._meaning(fault) from fault

    def _meaning(self, fault: EngineFault) -> EngineError | NoSuchVM | NoSuchDisk:
        """Return the refusal of a backup as an error type that the caller can act on."""
        if fault.missing:
            return NoSuchVM(f"VM {self.vm.name!r} ({self.vm.id}) no longer exists on the engine")
        if fault.status == 400 and "not exist" in fault.detail.lower() and "disk" in fault.detail.lower():
            return NoSuchDisk(fault.message, fault.advice)
        if self._request.from_checkpoint_id is not None:
            gone = faults.as_checkpoint_gone(fault, self._request.from_checkpoint_id)
            if gone is not None:
                return gone
        if fault.status == 409 and re.search(r"hosted.?engine", fault.detail, re.IGNORECASE):
            return self._is_hosted_engine()
        return faults.as_busy(fault) if fault.busy and not self._stuck else fault

    def _is_hosted_engine(self) -> NothingToBackUp:
        return NothingToBackUp(
            f"VM {self.vm.name!r} runs the engine itself (hosted engine), and the engine never backs it up",
            "Use engine-backup for the engine, and exclude this VM.",
        )

    def _wait_until_ready(self) -> Any:
        phase = "unknown"
        for _ in pauses(self._timeout_s, self._engine.poll_interval_s):
            found = self._get()
            phase = "gone" if found is None else enum_text(found.phase)
            if found is not None and phase == "ready":
                return found
            if phase in ("failed", "succeeded", "finalizing", "gone"):
                raise self._start_failed(phase)
        raise EngineError(
            f"{self._name} is not ready after {self._timeout_s:.0f} s (it is {phase})",
            "Check the engine's events, then run the backup again.",
        )

    def _start_failed(self, phase: str) -> EngineError:
        message = f"{self._name} did not become ready (it is {phase})"
        # A backup from a snapshot removes the snapshot before it is failed.
        if self._request.from_checkpoint_id is not None and phase in ("failed", "finalizing"):
            return CheckpointGone(
                f"{message}; it started from checkpoint {self._request.from_checkpoint_id}",
                "Take a full backup.",
            )
        return EngineError(message, "Check the engine's events, and the log of the VM's host.")

    # -- reading

    def _read_ready(self, first_ready: Any) -> StartedBackup:
        # Each update changes the modification date, so only the first ready answer has the right one.
        created = utc(first_ready.creation_date, "the date of the backup")
        if created is None:
            raise EngineError(f"the engine's answer lacks the date of backup {self.id}")
        ready = utc(first_ready.modification_date, "the backup's date of modification") or created
        hybrid = first_ready.snapshot is not None and bool(first_ready.snapshot.id)
        disks, any_cow = self._read_disks()
        checkpoint_id = first_ready.to_checkpoint_id or (self._late_checkpoint_id() if any_cow else None)
        checkpoint = (
            get_checkpoint(self._engine, self.vm.id, checkpoint_id) if checkpoint_id is not None else None
        )
        checkpoint_date = checkpoint.created if checkpoint is not None else None
        mode = Mode.HYBRID if hybrid else Mode.LIVE if self._running else Mode.COLD
        lo, hi = point_interval(mode, created, ready, checkpoint_date)
        return StartedBackup(
            id=self.id,
            vm_id=self.vm.id,
            mode=mode,
            lo=lo,
            hi=hi,
            from_checkpoint_id=self._request.from_checkpoint_id,
            checkpoint_id=checkpoint_id,
            disks=disks,
            creation_date=created,
            ready_date=ready,
            checkpoint_date=checkpoint_date,
        )

    def _read_disks(self) -> tuple[tuple[BackupDisk, ...], bool]:
        """Return the disks in the requested order, and whether a checkpoint can cover any of them (not raw disks)."""
        missing: list[str] = []
        for _ in pauses(_LATE_S, self._engine.poll_interval_s):
            listed = self._listed_disks()
            missing = [disk_id for disk_id in self._request.disk_ids if disk_id not in listed]
            if not missing:
                found = [listed[disk_id] for disk_id in self._request.disk_ids]
                disks = tuple(
                    # Without a mode, read the whole disk: reading too much is safe, reading too little is not.
                    BackupDisk(disk.id, disk.backup_mode == types.DiskBackupMode.INCREMENTAL)
                    for disk in found
                )
                return disks, any(self._is_cow(disk) for disk in found)
        raise EngineError(f"backup {self.id} does not cover the requested disks {', '.join(missing)}")

    def _is_cow(self, listed: Any) -> bool:
        if listed.format is None:
            return get_disk(self._engine, listed.id).format == "cow"
        return bool(listed.format == types.DiskFormat.COW)

    def _late_checkpoint_id(self) -> str | None:
        for _ in pauses(_LATE_S, self._engine.poll_interval_s):
            found = self._get()
            if found is None or enum_text(found.phase) in ("failed", "succeeded"):
                self.check_still_ready()
            elif found.to_checkpoint_id:
                return str(found.to_checkpoint_id)
        self._engine.log.info("backup %s has no checkpoint: the next backup cannot be incremental", self.id)
        return None

    # -- ending

    def has_ended(self) -> bool:
        """Return whether the backup has ended or does not exist on the engine. Raises EngineError."""
        found = self._get()
        return found is None or enum_text(found.phase) in ("failed", "succeeded")

    def checkpoint_id(self) -> str | None:
        """Return the id of the checkpoint that the backup created, None if it has none (yet). Raises EngineError."""
        found = self._get()
        return None if found is None else found.to_checkpoint_id or None

    def end_early(self) -> bool:
        """End the backup in any state and return whether it was open. Can be called again.

        Raises EngineError after a timeout.
        """
        if self.succeeded is not None or self.has_ended():
            return False
        if self._started is None:
            # If it does not become ready, finalizing it reports the problem.
            with suppress(EngineError):
                self._wait_for_phase(("ready", "failed", "succeeded"), min(_GRACE_S, self._timeout_s))
        self.succeeded = self._finalize(self._timeout_s)
        return True

    def _finish(self) -> None:
        self.finalize()

    def _finalize(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        for last in pauses(timeout_s, self._engine.poll_interval_s):
            try:
                self._engine.call(
                    f"finalizing backup {self.id}", lambda system: self._service(system).finalize()
                )
                break
            except EngineFault as fault:
                if fault.missing:
                    # The engine keeps a backup for minutes after its end: this one never existed or ended long ago.
                    return False
                phase = self._phase()
                if phase in ("succeeded", "failed", "finalizing", "gone"):
                    break
                # An open transfer or a late phase change can cause this refusal for a while.
                if fault.status not in (400, 409) or last:
                    raise faults.as_busy(fault) if fault.busy else fault from fault
                self._engine.log.debug("%s; waiting", fault.message)
        phase = self._wait_for_phase(("succeeded", "failed"), max(deadline - time.monotonic(), 0.0))
        # The engine only forgets backups that have ended, successful ones first.
        return phase in ("succeeded", "gone")

    def _wait_for_phase(self, wanted: tuple[str, ...], timeout_s: float) -> str:
        phase = "unknown"
        for _ in pauses(timeout_s, self._engine.poll_interval_s):
            phase = self._phase()
            if phase in wanted or phase == "gone":
                return phase
        raise EngineError(
            f"{self._name} is still {phase} after {timeout_s:.0f} s",
            "Check the engine's events, or finalize the backup through the engine's API.",
        )

    def _phase(self) -> str:
        found = self._get()
        return "gone" if found is None else enum_text(found.phase)

    # -- the engine's entities

    def listed_disk_ids(self) -> list[str]:
        """Return the ids of the disks that the engine lists for the backup. Raises EngineError."""
        return list(self._listed_disks())

    def _listed_disks(self) -> dict[str, Any]:
        found = self._engine.call(
            f"listing the disks of backup {self.id}",
            lambda system: self._service(system).disks_service().list(),
        )
        return {required(disk.id, "a disk's id"): disk for disk in found}

    @property
    def _name(self) -> str:
        return f"backup {self.id} of VM {self.vm.name!r}"

    def _get(self) -> Any | None:
        try:
            return self._engine.call(f"reading backup {self.id}", lambda system: self._service(system).get())
        except EngineFault as fault:
            if fault.missing:
                return None
            raise

    def _services(self, system: Any) -> Any:
        return system.vms_service().vm_service(self.vm.id).backups_service()

    def _service(self, system: Any) -> Any:
        return self._services(system).backup_service(self.id)
