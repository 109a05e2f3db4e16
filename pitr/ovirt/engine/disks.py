# SPDX-License-Identifier: GPL-2.0-or-later
"""Read, create, attach and delete disks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ovirtsdk4 import types

from pitr.errors import EngineError, NoSuchDisk, UsageError
from pitr.ovirt.engine import faults
from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.deleting import delete_until_gone
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, is_path_segment, required
from pitr.ovirt.engine.wait import pauses


@dataclass(frozen=True, slots=True)
class AttachmentOptions:
    """The rarer options of a disk's attachment to a VM."""

    read_only: bool = False
    pass_discard: bool = False
    uses_scsi_reservation: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk. `size` is the size that the guest sees, in bytes.

    `format` is "raw" or "cow" (qcow2); `storage_type` is "image", "lun"… The attachment to a VM has `interface`,
    `bootable`, `active` and the options in `attachment`; they are None or False when the disk was read without a VM.
    """

    id: str
    name: str
    size: int
    format: str
    sparse: bool
    interface: str | None
    bootable: bool
    active: bool
    backup_enabled: bool
    storage_type: str
    content_type: str
    shareable: bool
    storage_domain_ids: tuple[str, ...]
    status: str
    description: str = ""
    disk_profile_id: str | None = None
    wipe_after_delete: bool = False
    propagate_errors: bool = False
    attachment: AttachmentOptions = AttachmentOptions()


def vm_disks(engine: Engine, vm_id: str) -> list[Disk]:
    """Return the VM's disks, bootable disks first, then by name. Raises EngineError."""
    disks = [_read(_get(engine, disk_id), found) for disk_id, found in _attachments(engine, vm_id).items()]
    return sorted(disks, key=lambda disk: (not disk.bootable, disk.name, disk.id))


def get_disk(engine: Engine, disk_id: str) -> Disk:
    """Return the disk with this id. Raises NoSuchDisk, EngineError."""
    return _read(_get(engine, disk_id), None)


@dataclass(frozen=True, slots=True)
class NewDisk:
    """A disk to create. Sizes are in bytes.

    If `disk_id` is None, `create_disk` chooses an id. `initial_size` is only used for a sparse disk on block storage.
    """

    name: str
    size: int
    format: str
    sparse: bool
    storage_domain_id: str
    backup_enabled: bool
    description: str = ""
    disk_id: str | None = None
    initial_size: int | None = None
    disk_profile_id: str | None = None
    wipe_after_delete: bool = False
    propagate_errors: bool = False


def create_disk(engine: Engine, disk: NewDisk, *, timeout_s: float = 600.0) -> Disk:
    """Create the disk and return it when you can write to it; it reads as zeroes.

    Removes the disk again if it does not become ready.

    Raises UsageError for an unknown format or an id that exists already, EngineError.
    """
    if disk.format not in ("raw", "cow"):
        raise UsageError(f"a disk's format must be raw or cow, not {disk.format!r}")
    disk_id = disk.disk_id or str(uuid.uuid4())
    if disk.disk_id is not None and disk_exists(engine, disk_id):
        # Check first, because this function removes the disk with this id after a failure.
        raise UsageError(f"a disk with the id {disk_id} exists already", "Omit the id, or delete the disk.")
    new = types.Disk(
        id=disk_id,
        name=disk.name,
        description=disk.description,
        format=types.DiskFormat(disk.format),
        sparse=disk.sparse,
        provisioned_size=disk.size,
        initial_size=disk.initial_size,
        backup=types.DiskBackup.INCREMENTAL if disk.backup_enabled else types.DiskBackup.NONE,
        content_type=types.DiskContentType.DATA,
        # The domain's own default for wiping may be stricter.
        wipe_after_delete=disk.wipe_after_delete or None,
        propagate_errors=disk.propagate_errors or None,
        disk_profile=types.DiskProfile(id=disk.disk_profile_id) if disk.disk_profile_id else None,
        storage_domains=[types.StorageDomain(id=disk.storage_domain_id)],
    )
    with _removed_on_failure(engine, disk_id, timeout_s):
        _post(engine, new)
        created = wait_until_ok(engine, disk_id, timeout_s)
        if created.size < disk.size:
            raise EngineError(
                f"the engine created disk {disk_id} with {created.size} bytes instead of {disk.size}"
            )
        return created


def wait_until_ok(
    engine: Engine, disk_id: str, timeout_s: float, *, waiting: Callable[[], None] | None = None
) -> Disk:
    """Return the disk when its status is "ok"; call `waiting` before each pause.

    Raises EngineError when it is illegal, does not exist or is not ready within `timeout_s`.
    """
    disk = None
    for _ in pauses(timeout_s, engine.poll_interval_s):
        try:
            disk = get_disk(engine, disk_id)
        except NoSuchDisk as error:
            raise EngineError(
                f"disk {disk_id} has disappeared: the engine could not finish it",
                "Check the engine's events.",
            ) from error
        if disk.status == "ok":
            return disk
        if disk.status == "illegal":
            raise EngineError(
                f"disk {disk_id} ({disk.name!r}) is illegal",
                "Check the engine's events, then delete the disk.",
            )
        if waiting is not None:
            waiting()
    status = "unknown" if disk is None else disk.status
    raise EngineError(
        f"disk {disk_id} is still {status} after {timeout_s:.0f} s",
        "Check the engine's events and its running tasks.",
    )


def delete_disk(engine: Engine, disk_id: str, timeout_s: float = 300.0) -> None:
    """Delete the disk and wait until it is gone; do nothing if it does not exist.

    Waits while the disk is locked. Raises EngineBusy when it stays locked, EngineError.
    """
    delete_until_gone(
        engine,
        f"disk {disk_id}",
        lambda system: system.disks_service().disk_service(disk_id).remove(),
        lambda: disk_exists(engine, disk_id),
        timeout_s,
    )


def attach_disk(
    engine: Engine,
    vm_id: str,
    disk_id: str,
    *,
    interface: str = "virtio_scsi",
    bootable: bool,
    active: bool,
    options: AttachmentOptions | None = None,
) -> None:
    """Attach the disk to the VM; `interface` is "virtio_scsi", "virtio", "sata"…

    Raises UsageError for an unknown interface, NoSuchVM, EngineBusy, EngineError.
    """
    try:
        kind = types.DiskInterface(interface)
    except ValueError:
        known = ", ".join(item.value for item in types.DiskInterface)
        raise UsageError(f"unknown disk interface {interface!r}", f"Use one of: {known}.") from None
    options = options or AttachmentOptions()
    attachment = types.DiskAttachment(
        disk=types.Disk(id=disk_id),
        interface=kind,
        bootable=bootable,
        active=active,
        read_only=options.read_only or None,
        pass_discard=options.pass_discard or None,
        uses_scsi_reservation=options.uses_scsi_reservation or None,
    )
    try:
        engine.call(
            f"attaching disk {disk_id} to VM {vm_id}",
            lambda system: system.vms_service().vm_service(vm_id).disk_attachments_service().add(attachment),
            idempotent=False,
        )
    except EngineFault as fault:
        # The answer may be lost, or the SDK may have sent the request twice: check the attachment itself.
        if (fault.transient or fault.status in (400, 409)) and _is_attached(engine, vm_id, disk_id):
            return
        if fault.busy:
            raise faults.as_busy(fault) from fault
        raise


def disk_exists(engine: Engine, disk_id: str) -> bool:
    """Return whether the disk exists. Raises EngineError."""
    try:
        get_disk(engine, disk_id)
    except NoSuchDisk:
        return False
    return True


def _is_attached(engine: Engine, vm_id: str, disk_id: str) -> bool:
    return disk_id in _attachments(engine, vm_id)


def _attachments(engine: Engine, vm_id: str) -> dict[str, Any]:
    found = engine.call(
        f"listing the disks of VM {vm_id}",
        lambda system: system.vms_service().vm_service(vm_id).disk_attachments_service().list(),
    )
    return {_disk_id(attachment): attachment for attachment in found}


def _disk_id(attachment: Any) -> str:
    # An attachment has the same id as its disk.
    disk_id = attachment.id or (attachment.disk.id if attachment.disk is not None else None)
    return required(disk_id, "the id of a disk attachment")


def _post(engine: Engine, new: Any) -> None:
    try:
        engine.call(
            f"creating disk {new.name!r}", lambda system: system.disks_service().add(new), idempotent=False
        )
    except EngineFault as fault:
        # The answer may be lost, or the SDK may have sent the request twice: check whether the disk exists.
        if not disk_exists(engine, new.id):
            if fault.busy:
                raise faults.as_busy(fault) from fault
            raise
        engine.log.info("%s; disk %s exists nevertheless, continuing", fault.message, new.id)


@contextmanager
def _removed_on_failure(engine: Engine, disk_id: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            delete_disk(engine, disk_id, timeout_s)
        except EngineError as problem:
            error.add_note(f"cannot remove disk {disk_id}: {problem}")
        raise


def _get(engine: Engine, disk_id: str) -> Any:
    if not is_path_segment(disk_id):
        raise NoSuchDisk(f"disk {disk_id!r} not found: this is not an id")
    try:
        return engine.call(
            f"reading disk {disk_id}", lambda system: system.disks_service().disk_service(disk_id).get()
        )
    except EngineFault as fault:
        if fault.missing:
            raise NoSuchDisk(f"disk {disk_id} not found on the engine at {engine.where}") from fault
        raise


def _options(attachment: Any | None) -> AttachmentOptions:
    if attachment is None:
        return AttachmentOptions()
    return AttachmentOptions(
        bool(attachment.read_only), bool(attachment.pass_discard), bool(attachment.uses_scsi_reservation)
    )


def _read(disk: Any, attachment: Any | None) -> Disk:
    disk_id = required(disk.id, "a disk's id")
    storage_type = enum_text(disk.storage_type, absent="image")
    if disk.provisioned_size is None and storage_type == "image":
        raise EngineError(f"the engine's answer lacks the size of disk {disk_id}")
    interface = attachment.interface if attachment is not None else None
    domains = [domain.id for domain in disk.storage_domains or () if domain.id]
    if not domains and disk.storage_domain is not None and disk.storage_domain.id:
        domains = [disk.storage_domain.id]
    return Disk(
        id=disk_id,
        name=disk.alias or disk.name or disk_id,
        size=disk.provisioned_size or 0,
        format=enum_text(disk.format, absent="raw"),
        sparse=bool(disk.sparse),
        interface=interface.value if interface is not None else None,
        bootable=bool(attachment is not None and attachment.bootable),
        # The engine activates a new attachment, so one without this field is active.
        active=attachment is not None and attachment.active is not False,
        backup_enabled=disk.backup == types.DiskBackup.INCREMENTAL,
        storage_type=storage_type,
        content_type=enum_text(disk.content_type, absent="data"),
        shareable=bool(disk.shareable),
        storage_domain_ids=tuple(domains),
        status=enum_text(disk.status, absent="ok" if storage_type == "lun" else "unknown"),
        description=disk.description or "",
        disk_profile_id=disk.disk_profile.id if disk.disk_profile is not None else None,
        wipe_after_delete=bool(disk.wipe_after_delete),
        propagate_errors=bool(disk.propagate_errors),
        attachment=_options(attachment),
    )
