# SPDX-License-Identifier: GPL-2.0-or-later
"""The unmodified SDK as a client of the lab, with the waiting that every client has to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import ovirtsdk4
from ovirt_imageio.client import ImageioClient
from ovirtsdk4 import types

from pitr.lab import Lab, LabDisk, LabVM

#: No test depends on it: it only ends one that would hang.
PATIENCE_S = 60.0
READY = types.BackupPhase.READY
SUCCEEDED = types.BackupPhase.SUCCEEDED
FAILED = types.BackupPhase.FAILED
TRANSFERRING = types.ImageTransferPhase.TRANSFERRING
FINISHED_SUCCESS = types.ImageTransferPhase.FINISHED_SUCCESS
FINISHED_FAILURE = types.ImageTransferPhase.FINISHED_FAILURE

Answer = TypeVar("Answer")


def wait_for(look: Callable[[], Answer], wanted: Callable[[Answer], bool]) -> Answer:
    """What `look` returns once it is `wanted`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = look()
        if wanted(found):
            return found
        assert time.monotonic() < deadline, f"still {found} after {PATIENCE_S} s"
        time.sleep(0.005)


class Client:
    """The SDK's services, by short names. A context manager."""

    def __init__(self, lab: Lab, **options: Any) -> None:
        options = {"username": lab.username, "password": lab.password, "ca_file": str(lab.cafile)} | options
        self.lab = lab
        self.connection = ovirtsdk4.Connection(f"{lab.engine_url}/ovirt-engine/api", **options)
        self.system: Any = self.connection.system_service()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.connection.close()

    def vm(self, vm: LabVM) -> Any:
        return self.system.vms_service().vm_service(vm.id)

    def disk(self, disk_id: str) -> Any:
        return self.system.disks_service().disk_service(disk_id)

    def backups(self, vm: LabVM) -> Any:
        return self.vm(vm).backups_service()

    def checkpoints(self, vm: LabVM) -> list[Any]:
        return list(self.vm(vm).checkpoints_service().list())

    def transfer(self, transfer_id: str) -> Any:
        return self.system.image_transfers_service().image_transfer_service(transfer_id)

    def post_backup(
        self,
        vm: LabVM,
        disks: Sequence[LabDisk],
        *,
        since: str | None = None,
        backup_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Ask for a backup, and return the first answer."""
        wanted = types.Backup(
            id=backup_id,
            disks=[types.Disk(id=disk.id) for disk in disks],
            from_checkpoint_id=since,
        )
        return self.backups(vm).add(wanted, **options)

    def await_backup(self, vm: LabVM, backup_id: str, *phases: types.BackupPhase) -> Any:
        look = self.backups(vm).backup_service(backup_id).get
        return wait_for(look, lambda backup: backup.phase in phases)

    def start_backup(self, vm: LabVM, disks: Sequence[LabDisk], **options: Any) -> Any:
        """Start a backup and wait until it is ready."""
        backup = self.await_backup(vm, self.post_backup(vm, disks, **options).id, READY, FAILED)
        assert backup.phase == READY
        return backup

    def finalize_backup(self, vm: LabVM, backup_id: str) -> Any:
        self.backups(vm).backup_service(backup_id).finalize()
        return self.await_backup(vm, backup_id, SUCCEEDED, FAILED)

    def backup_once(self, vm: LabVM, disks: Sequence[LabDisk], **options: Any) -> Any:
        """A whole backup that nobody reads."""
        return self.finalize_backup(vm, self.start_backup(vm, disks, **options).id)

    def modes(self, vm: LabVM, backup_id: str) -> dict[str, str]:
        """Disk id to backup mode."""
        listed = self.backups(vm).backup_service(backup_id).disks_service().list()
        return {disk.id: disk.backup_mode.value for disk in listed}

    def post_transfer(self, disk_id: str, **options: Any) -> Any:
        wanted = types.ImageTransfer(disk=types.Disk(id=disk_id), format=types.DiskFormat.RAW)
        for name, value in options.items():
            setattr(wanted, name, value)
        return self.system.image_transfers_service().add(wanted)

    def start_download(self, disk_id: str, backup_id: str | None = None, **options: Any) -> Any:
        """Start a download and wait until it can be read."""
        backup = None if backup_id is None else types.Backup(id=backup_id)
        options |= {"direction": types.ImageTransferDirection.DOWNLOAD, "backup": backup}
        return self.await_transfer(self.post_transfer(disk_id, **options).id, TRANSFERRING)

    def start_upload(self, disk_id: str, **options: Any) -> Any:
        options["direction"] = types.ImageTransferDirection.UPLOAD
        return self.await_transfer(self.post_transfer(disk_id, **options).id, TRANSFERRING)

    def await_transfer(self, transfer_id: str, *phases: types.ImageTransferPhase) -> Any:
        return wait_for(self.transfer(transfer_id).get, lambda transfer: transfer.phase in phases)

    def finalize_transfer(self, transfer_id: str) -> Any:
        self.transfer(transfer_id).finalize()
        return self.await_transfer(transfer_id, FINISHED_SUCCESS, FINISHED_FAILURE)

    def cancel_transfer(self, transfer_id: str) -> Any:
        self.transfer(transfer_id).cancel()
        return self.await_transfer(transfer_id, FINISHED_SUCCESS, FINISHED_FAILURE)

    def imageio(self, transfer: Any) -> closing[ImageioClient]:
        return closing(ImageioClient(transfer.transfer_url, cafile=str(self.lab.cafile)))

    def add_disk(self, *, size: int, format: types.DiskFormat = types.DiskFormat.COW, **options: Any) -> Any:
        """Ask for a disk, and return the first answer."""
        wanted = types.Disk(
            format=format,
            provisioned_size=size,
            storage_domains=[types.StorageDomain(name=self.lab.storage_domain)],
        )
        for name, value in options.items():
            setattr(wanted, name, value)
        return self.system.disks_service().add(wanted)

    def await_disk(self, disk_id: str) -> Any:
        ok = types.DiskStatus.OK
        return wait_for(self.disk(disk_id).get, lambda disk: disk.status == ok)

    def read_backup(self, vm: LabVM, disk: LabDisk, backup_id: str, base: bytes | None = None) -> bytes:
        """A disk as a backup has it: all of it, or its changes laid over `base`."""
        transfer = self.start_download(disk.id, backup_id)
        content = bytearray(base or bytes(disk.size))
        with self.imageio(transfer) as client:
            for extent in client.extents("dirty" if base is not None else "zero"):
                if base is not None and not extent.dirty:
                    continue
                end = extent.start + extent.length
                if extent.zero:
                    content[extent.start : end] = bytes(extent.length)
                else:
                    client.read(extent.start, memoryview(content)[extent.start : end])
        assert self.finalize_transfer(transfer.id).phase == FINISHED_SUCCESS
        return bytes(content)


def content_of(disk: LabDisk, folder: Path) -> bytes:
    """The oracle: what the disk holds now."""
    path = folder / f"{disk.id}.raw"
    disk.copy_content(path)
    content = path.read_bytes()
    path.unlink()
    return content


def refused(request: Callable[[], object]) -> ovirtsdk4.Error:
    """The error that the engine answers `request` with."""
    try:
        request()
    except ovirtsdk4.Error as error:
        return error
    raise AssertionError("the engine did not refuse")
