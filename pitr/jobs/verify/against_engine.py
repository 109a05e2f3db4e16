# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify against the engine: is what the VMs' disks hold what the repository says?

During an incremental backup that stores nothing, each disk's checksum, computed by the daemon on its host, is compared
with that of the last point, to which only what the engine calls changed since is added. It proves the last point, and
that the engine has not missed a change, without downloading what has not changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.endpoints.points.overlay import OverlaySource
from pitr.endpoints.points.point import open_point
from pitr.errors import CheckpointGone
from pitr.jobs.upkeep.leftovers import end_of_vm, noted
from pitr.jobs.verify.repository import Verified
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
from pitr.repository import Repository, notes
from pitr.repository.damage import Damage, StoredDamage
from pitr.text import printable

LEVEL = "engine"


def verify_against_engine(
    repository: Repository,
    engine: Engine,
    vms: Sequence[VMName],
    *,
    workers: int = DEFAULT_WORKERS,
    notify: Notify,
) -> Verified:
    """Compare the last point of each VM with its disks now; what differs is damage.

    Raw disks, and disks that were not in the last point, are left out, which `notify` is told. Raises CheckpointGone
    where the engine cannot tell any more what changed since, BusyError, NoSuchVM, EngineError.
    """
    result = Verified(LEVEL)
    for vm in vms:
        with repository.lock_vm(vm), repository.reading_vm(vm):
            _verify_vm(repository, engine, find_vm(engine, vm.id), result, workers, notify)
    return result


def _verify_vm(
    repository: Repository,
    engine: Engine,
    vm: VM,
    result: Verified,
    workers: int,
    notify: Notify,
) -> None:
    end_of_vm(repository, engine, vm)
    last = _last_point(repository, engine, vm)
    attached = {disk.id: disk for disk in vm_disks(engine, vm.id)}
    disks = [
        attached[stream.disk_id]
        for stream in last.streams
        if stream.disk_id in attached
        and attached[stream.disk_id].format == "cow"
        and attached[stream.disk_id].active
    ]
    compared = {disk.id for disk in disks}
    for stream in last.streams:
        if stream.disk_id not in compared:
            notify(
                f"disk {printable(stream.name)} ({stream.disk_id}) cannot be compared: it keeps no checkpoints"
            )
    result.points += 1
    if not disks:
        return
    running = start_backup(
        engine,
        vm,
        BackupRequest(
            tuple(disk.id for disk in disks),
            str(uuid.uuid4()),
            from_checkpoint_id=last.checkpoint_id,
            description=f"pitr verify of {vm.name}",
        ),
    )
    checkpoint_id = None
    try:
        with noted(repository, vm.id, running):
            checkpoint_id = running.started.checkpoint_id
            incremental = {disk.disk_id for disk in running.started.disks if disk.incremental}
            for disk in disks:
                held = last.stream_of(disk.id)
                if held is None or disk.id not in incremental:
                    notify(
                        f"disk {printable(disk.name)} ({disk.id}) cannot be compared: it is new to the checkpoint"
                    )
                    continue
                result.streams += 1
                _verify_disk(repository, engine, running.id, disk, last, held, result, workers)
    finally:
        # Nothing is stored that could start from it.
        if checkpoint_id is not None:
            delete_checkpoint(engine, vm.id, checkpoint_id)
            notes.remove_checkpoint(repository.store, vm.id, checkpoint_id)


def _last_point(repository: Repository, engine: Engine, vm: VM) -> Backup:
    points = repository.catalog_of_vm(vm.id).points(vm.id)
    usable = {checkpoint.id for checkpoint in list_checkpoints(engine, vm.id) if checkpoint.valid}
    for backup in points[:1]:
        if backup.checkpoint_id in usable:
            return backup
    raise CheckpointGone(
        f"the engine cannot tell what has changed on VM {printable(vm.name)} since its last point: the checkpoint of "
        "that is not there",
        "Take a backup, then compare again. (Of raw disks there are no checkpoints.)",
    )


def _verify_disk(
    repository: Repository,
    engine: Engine,
    backup_id: str,
    disk: Disk,
    last: Backup,
    stream: Stream,
    result: Verified,
    workers: int,
) -> None:
    try:
        with (
            start_download(engine, disk.id, backup_id=backup_id) as transfer,
            open_point(repository, last, stream) as point,
        ):
            address = imageio_address(engine, transfer)
            # The engine ends a transfer that is idle while what has not changed is read from the repository.
            with kept_alive(address):
                on_server = server_checksum(address)
                source = OverlaySource(ImageioSource(address, "dirty", engine_size=disk.size), point)
                expected = checksum(source, max(on_server.size, source.size), workers=workers)
            result.frames += point.frames_read
            result.bytes += point.bytes_read
    except StoredDamage as error:
        lost = repository.catalog_of_vm(last.vm.id).dependants(error.damage.stream_id or stream.stream_id)
        result.damage.append(error.damage.losing(tuple(lost)))
        return
    if expected != on_server.checksum:
        message = (
            f"disk {printable(stream.name)} ({disk.id}) is not what backup {last.backup_id} holds and the engine's "
            "changes since make of it: the repository or the engine's change tracking is wrong; take a full backup"
        )
        damage = Damage(
            last.backup_id, disk.id, stream.stream_id, "inconsistent", "blob", message, 0, source.size
        )
        result.damage.append(damage.losing((last.backup_id,)))
