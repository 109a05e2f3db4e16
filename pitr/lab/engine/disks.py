# SPDX-License-Identifier: GPL-2.0-or-later
"""Create disks in the background, lock them during operations, and delete them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pitr.errors import PitrError
from pitr.lab.engine import checkpoints, events
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.refusals import bad_disk_alias, bad_request, conflict, disks_locked, incomplete
from pitr.lab.engine.state import Disk, StorageDomain, new_id

#: The host rounds the size of a new disk up to a multiple of this; the engine reports the requested size.
VOLUME_ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class DiskRequest:
    """What a client asks for; None where it says nothing."""

    id: str | None
    name: str | None
    size: int | None
    format: str | None
    sparse: bool | None
    incremental: bool
    storage_domain: str | None
    description: str = ""
    content_type: str = "data"
    initial_size: int | None = None
    shareable: bool = False
    wipe_after_delete: bool = False
    propagate_errors: bool = False
    profile_id: str | None = None


#: The engine accepts no other alias when a disk is created or updated. Disks of older engines may have others.
_ALIAS = re.compile(r"[\w.-]{1,255}", re.ASCII)


def check_alias(alias: str, action: str) -> None:
    """Raise Refusal (400) for an alias that the engine does not accept."""
    if not _ALIAS.fullmatch(alias):
        raise bad_disk_alias(action)


def create(installation: Installation, wanted: DiskRequest, correlation_id: str | None = None) -> Disk:
    """Start to create a disk and return it with the status locked. Raises Refusal: 400 incomplete, 409 impossible."""
    state = installation.state
    with state.lock:
        disk = _checked(installation, wanted)
        state.disks[disk.id] = disk
    job = events.start_job(installation, f"Creating Disk {disk.name}", correlation_id)

    def work() -> None:
        installation.lag()
        try:
            if installation.faults.happens("disk creation"):
                raise PitrError("a test made the disk creation fail")
            volume_size = -(-disk.size // VOLUME_ALIGNMENT) * VOLUME_ALIGNMENT
            with installation.host_lock:
                installation.host.create_volume(disk.id, volume_size, disk.format, sparse=disk.sparse)
                disk.has_volume = True
        except PitrError:
            with state.lock:
                disk.status = "illegal"
                events.end_job(installation, job, succeeded=False)
            return
        installation.lag()
        with state.lock:
            disk.status = "ok"
            events.end_job(installation, job, succeeded=True)

    installation.workers.start(f"disk {disk.id[:8]}", work)
    return disk


def delete(installation: Installation, disk_id: str) -> None:
    """Delete a disk. Raises Refusal: Missing, or 409 while it is locked or in use."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            disk = state.disk(disk_id)
            if disk.status == "locked":
                raise disks_locked("remove Virtual Disk", [disk.name])
            running = [vm.name for vm in state.vms_of(disk_id) if vm.running]
            if running:
                raise conflict(f"Cannot remove Virtual Disk. The disk is used by VMs that run: {running[0]}")
        drop(installation, disk)


def drop(installation: Installation, disk: Disk) -> None:
    """Remove a disk and all references to it, in any status."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            owners = state.vms_of(disk.id)
            del state.disks[disk.id]
            for vm in owners:
                del vm.attachments[disk.id]
        for vm in owners:
            checkpoints.forget_disk(installation, vm, disk.id)
        if disk.has_volume:
            installation.host.delete_volume(disk.id)


def grow(installation: Installation, disk_id: str, size: int) -> None:
    """Make a disk larger, whether its VM runs or not."""
    with installation.host_lock:
        installation.host.grow_volume(disk_id, size)
        with installation.state.lock:
            installation.state.disk(disk_id).size = size


def replace(installation: Installation, disk_id: str, size: int, disk_format: str) -> None:
    """Replace the volume of an unused disk, and remove the disk from all checkpoints."""
    state = installation.state
    with installation.host_lock:
        with state.lock:
            disk = state.disk(disk_id)
            owners = state.vms_of(disk_id)
        for vm in owners:
            checkpoints.forget_disk(installation, vm, disk_id)
        installation.host.replace_volume(disk_id, size, disk_format)
        with state.lock:
            disk.size, disk.format = size, disk_format
            disk.incremental = disk_format == "cow"
            disk.sparse = disk.sparse or disk_format == "cow"


def storage_domain_named(installation: Installation, name_or_id: str) -> StorageDomain:
    """Return the storage domain with this id or name. Raises Refusal (404)."""
    state = installation.state
    with state.lock:
        for domain in state.storage_domains.values():
            if name_or_id in {domain.id, domain.name}:
                return domain
        return state.storage_domain(name_or_id)


def _checked(installation: Installation, wanted: DiskRequest) -> Disk:
    if wanted.size is None or wanted.format is None:
        raise incomplete("Disk", "provisionedSize, format")
    if wanted.storage_domain is None:
        raise incomplete("Disk", "storageDomains.storageDomain.id|name")
    domain = storage_domain_named(installation, wanted.storage_domain)
    if wanted.name is not None:
        check_alias(wanted.name, "add")
    if wanted.profile_id is not None and wanted.profile_id not in domain.profiles:
        raise bad_request("Cannot add Virtual Disk. The disk profile does not match the storage domain.")
    sparse = wanted.format == "cow" if wanted.sparse is None else wanted.sparse
    if wanted.id is not None and wanted.id in installation.state.disks:
        raise conflict(f"Cannot add Virtual Disk. The disk ID {wanted.id} already exists.")
    if wanted.size <= 0 or wanted.size % 512:
        raise conflict(f"Cannot add Virtual Disk. The disk size {wanted.size} is not possible.")
    if wanted.format == "raw" and wanted.incremental:
        raise conflict("Cannot add Virtual Disk. Incremental backup is not supported for RAW disks.")
    if wanted.format == "raw" and sparse and domain.is_block:
        raise conflict(
            "Cannot add Virtual Disk. "
            "Disk configuration (RAW Sparse) is incompatible with the storage domain type."
        )
    if wanted.format == "cow" and not sparse and not wanted.incremental:
        raise conflict(
            "Cannot add Virtual Disk. "
            "Disk configuration (COW Preallocated) is incompatible with the storage domain type."
        )
    if not domain.active:
        raise conflict(f"Cannot add Virtual Disk. The storage domain {domain.name} is not active.")
    disk_id = wanted.id or new_id()
    return Disk(
        id=disk_id,
        name=wanted.name or f"disk-{disk_id[:8]}",
        size=wanted.size,
        format=wanted.format,
        sparse=sparse,
        incremental=wanted.incremental,
        storage_domain_id=domain.id,
        description=wanted.description,
        content_type=wanted.content_type,
        initial_size=wanted.initial_size,
        shareable=wanted.shareable,
        wipe_after_delete=wanted.wipe_after_delete,
        propagate_errors=wanted.propagate_errors,
        profile_id=wanted.profile_id or next(iter(domain.profiles), None),
    )
