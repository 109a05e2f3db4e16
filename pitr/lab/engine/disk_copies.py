# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy disks from storage domain to storage domain in the background."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pitr.errors import PitrError
from pitr.lab.engine import disks, events
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.refusals import bad_request, conflict, disks_locked, incomplete
from pitr.lab.engine.state import Disk, StorageDomain, new_id

_ACTION = "copy Virtual Disk"


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """A client's request; None where it says nothing. Without a name the copy has the name of the disk."""

    name: str | None
    storage_domain: str | None
    profile_id: str | None = None


def start(
    installation: Installation, disk_id: str, wanted: DiskCopy, correlation_id: str | None = None
) -> Disk:
    """Start to copy a disk and return the new one; both are locked until the copy ends.

    Raises Refusal: Missing, 400 incomplete, 409 while the disk is in use or the storage domain cannot take it.
    """
    state = installation.state
    with state.lock:
        disk = state.disk(disk_id)
        new = _checked(installation, disk, wanted)
        state.disks[new.id] = new
        disk.status = "locked"
    job = events.start_job(installation, f"Copying Disk {disk.name} to {new.name}", correlation_id)

    def work() -> None:
        installation.lag()
        try:
            if installation.faults.happens("disk copy"):
                raise PitrError("a test made the copy of the disk fail")
            with installation.host_lock:
                installation.host.copy_volume(disk.id, new.id, sparse=new.sparse)
                new.has_volume = True
        except PitrError:
            with state.lock:
                disk.status = "ok"
                events.end_job(installation, job, succeeded=False)
            # The engine removes the new disk of a failed copy.
            disks.drop(installation, new)
            return
        installation.lag()
        with state.lock:
            disk.status = new.status = "ok"
            events.end_job(installation, job, succeeded=True)

    installation.workers.start(f"copy {new.id[:8]}", work)
    return new


def _checked(installation: Installation, disk: Disk, wanted: DiskCopy) -> Disk:
    if wanted.storage_domain is None:
        raise incomplete("Action", "storageDomain.id|name")
    domain = disks.storage_domain_named(installation, wanted.storage_domain)
    name = wanted.name or disk.name
    if wanted.name is not None:
        disks.check_alias(name, "copy")
    if wanted.profile_id is not None and wanted.profile_id not in domain.profiles:
        raise bad_request(f"Cannot {_ACTION}. The disk profile does not match the storage domain.")
    if disk.storage_type != "image":
        raise conflict(f"Cannot {_ACTION}. The disk {disk.name} is not an image.")
    if disk.status == "locked":
        raise disks_locked(_ACTION, [disk.name])
    if disk.status != "ok" or not disk.volume_legal:
        raise conflict(f"Cannot {_ACTION}. The disk {disk.name} is illegal.")
    users = [vm for vm in installation.state.vms_of(disk.id) if vm.attachments[disk.id].active]
    running = [vm.name for vm in users if vm.status != "down"]
    if running:
        raise conflict(
            f"Cannot {_ACTION}. The disk {disk.name} is plugged to VM {running[0]}, which is not down."
        )
    if any(installation.state.running_backup(vm.id) is not None for vm in users):
        raise conflict(f"Cannot {_ACTION}. The VM is during a backup operation.")
    if not domain.active:
        raise conflict(f"Cannot {_ACTION}. The storage domain {domain.name} is not active.")
    if domain.available < disk.size:
        raise conflict(f"Cannot {_ACTION}. Low disk space on Storage Domain {domain.name}.")
    return _copy_of(disk, name, domain, wanted)


def _copy_of(disk: Disk, name: str, domain: StorageDomain, wanted: DiskCopy) -> Disk:
    return replace(
        disk,
        id=new_id(),
        name=name,
        storage_domain_id=domain.id,
        # Block storage has no thin raw disks.
        sparse=disk.sparse and not (disk.format == "raw" and domain.is_block),
        profile_id=wanted.profile_id or next(iter(domain.profiles), None),
        image_id=new_id(),
        status="locked",
        has_volume=False,
    )
