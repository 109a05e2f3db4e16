# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify points against the engine: compare the VMs' disks with the repository.

pitr starts an incremental backup that stores nothing. The daemon computes each disk's checksum on its host. pitr
computes the same checksum from the last point plus the ranges that the engine reports as changed since. Equal
checksums prove the last point, and that the engine missed no change. Unchanged data is not downloaded.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.endpoints.points.overlay import OverlaySource
from pitr.endpoints.points.point import open_point
from pitr.errors import CheckpointGone
from pitr.jobs import proofs
from pitr.jobs.known_damage import remember
from pitr.jobs.upkeep.leftovers import end_of_vm, noted
from pitr.jobs.verify.stored_data import Verified
from pitr.model import Backup, Stream, VMName
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    VM,
    BackupRequest,
    Disk,
    Engine,
    delete_checkpoint,
    find_vm,
    list_checkpoints,
    start_backup,
    start_download,
    vm_disks,
)
from pitr.ovirt.imageio.checksum import checksum, server_checksum
from pitr.ovirt.imageio.disk import ImageioSource
from pitr.ovirt.imageio.keep_alive import kept_alive
from pitr.reporting import Notify
from pitr.repository import Repository, findings, notes
from pitr.repository.damage import Damage, StoredDamage
from pitr.text import named, printable

LEVEL = "engine"


def verify_against_engine(
    repository: Repository,
    engine: Engine,
    vms: Sequence[VMName],
    *,
    workers: int = DEFAULT_WORKERS,
    notify: Notify,
) -> Verified:
    """Compare the last point of each VM with its disks now, and return all differences as damage.

    Raw disks and disks that the last point does not hold are skipped, and `notify` gets a line about each. Raises
    CheckpointGone if the engine no longer knows what changed since the point; BusyError, NoSuchVM, EngineError.
    """
    comparison = _EngineComparison(repository, engine, workers, notify, Verified(LEVEL))
    for vm in vms:
        with repository.lock_vm(vm), repository.reading_vm(vm):
            comparison.compare_vm(find_vm(engine, vm.id))
    return comparison.result


@dataclass(frozen=True, slots=True)
class _EngineComparison:
    """The comparison in progress; it collects everything in `result`."""

    repository: Repository
    engine: Engine
    workers: int
    notify: Notify
    result: Verified

    def compare_vm(self, vm: VM) -> None:
        end_of_vm(self.repository, self.engine, vm)
        last = self._last_point(vm)
        disks = self._comparable_disks(vm, last)
        self.result.points += 1
        if not disks:
            return
        running = start_backup(
            self.engine,
            vm,
            BackupRequest(
                tuple(disk.id for disk in disks),
                str(uuid.uuid4()),
                from_checkpoint_id=last.checkpoint_id,
                description=f"pitr verify of {vm.name}",
            ),
        )
        checkpoint_id = None
        equal = 0
        try:
            with noted(self.repository, vm.id, running):
                checkpoint_id = running.started.checkpoint_id
                incremental = {disk.disk_id for disk in running.started.disks if disk.incremental}
                for disk in disks:
                    stream = last.stream_of(disk.id)
                    if stream is None or disk.id not in incremental:
                        self.notify(
                            f"disk {named(disk.name, disk.id)} cannot be compared: the checkpoint does not hold it"
                        )
                    else:
                        equal += self._is_equal(running.id, disk, last, stream)
        finally:
            # This backup stores nothing, so no later backup can start from its checkpoint.
            if checkpoint_id is not None:
                delete_checkpoint(self.engine, vm.id, checkpoint_id)
                notes.forget_checkpoint(self.repository.store, vm.id, checkpoint_id)
        if equal == len(last.streams):
            proofs.remember_point(self.repository, vm.id, self.notify)

    def _last_point(self, vm: VM) -> Backup:
        points = self.repository.catalog_of_vm(vm.id).points(vm.id)
        usable = {checkpoint.id for checkpoint in list_checkpoints(self.engine, vm.id) if checkpoint.valid}
        if points and points[0].checkpoint_id in usable:
            return points[0]
        raise CheckpointGone(
            f"cannot compare VM {printable(vm.name)}: the engine no longer has the last point's checkpoint",
            "Take a backup, then compare again. (The engine keeps no checkpoints of raw disks.)",
        )

    def _comparable_disks(self, vm: VM, last: Backup) -> list[Disk]:
        """Return the disks of the point that the engine tracks the changes of."""
        attached = {disk.id: disk for disk in vm_disks(self.engine, vm.id)}
        disks: list[Disk] = []
        for stream in last.streams:
            disk = attached.get(stream.disk_id)
            if disk is not None and disk.format == "cow" and disk.active:
                disks.append(disk)
            else:
                self.notify(
                    f"disk {named(stream.name, stream.disk_id)} cannot be compared: it is raw, inactive or detached"
                )
        return disks

    def _is_equal(self, backup_id: str, disk: Disk, last: Backup, stream: Stream) -> bool:
        """Compare a disk with the point plus the changes since; a difference is in the result."""
        result = self.result
        result.streams += 1
        try:
            with (
                start_download(self.engine, disk.id, backup_id=backup_id) as transfer,
                open_point(self.repository, last, stream) as point,
            ):
                address = imageio_address(self.engine, transfer)
                # The engine ends an idle transfer; this one is idle while pitr reads the repository.
                with kept_alive(address):
                    on_server = server_checksum(address)
                    source = OverlaySource(ImageioSource(address, "dirty", engine_size=disk.size), point)
                    expected = checksum(source, max(on_server.size, source.size), workers=self.workers)
                result.frames += point.frames_read
                result.bytes += point.bytes_read
        except StoredDamage as error:
            catalog = self.repository.catalog_of_vm(last.vm.id)
            lost = catalog.dependants(error.damage.stream_id or stream.stream_id)
            result.damage.append(error.damage.losing(tuple(lost)))
            remember(self.repository, last.vm.id, "verify", result.damage[-1:], self.notify)
            return False
        if expected != on_server.checksum:
            message = (
                f"disk {named(stream.name, disk.id)} differs from backup {last.backup_id} plus the changes that the "
                "engine reports since: the repository or the engine's change tracking is wrong; take a full backup"
            )
            damage = Damage(
                last.backup_id, disk.id, stream.stream_id, "inconsistent", "blob", message, 0, source.size
            )
            result.damage.append(damage.losing((last.backup_id,)))
            remember(self.repository, last.vm.id, findings.AGAINST_ENGINE, result.damage[-1:], self.notify)
            return False
        disproved = [
            finding
            for finding in findings.found_in(self.repository.store, last.vm.id)
            if finding.what == findings.ENGINE and finding.stream_id == stream.stream_id
        ]
        findings.clear(self.repository.store, disproved)
        return True
