# SPDX-License-Identifier: GPL-2.0-or-later
"""Parse the bodies of clients' requests. Like the engine, ignore unknown children."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from pitr.lab.engine import xml
from pitr.lab.engine.backups import NewBackup
from pitr.lab.engine.disk_copies import DiskCopy
from pitr.lab.engine.disks import DiskRequest
from pitr.lab.engine.requests import ApiRequest
from pitr.lab.engine.state import Attachment
from pitr.lab.engine.transfers import NewTransfer


def new_backup(request: ApiRequest) -> NewBackup:
    root = request.document("backup")
    return NewBackup(
        id=root.get("id"),
        disk_ids=[disk.get("id", "") for disk in root.iterfind("disks/disk")],
        from_checkpoint_id=xml.text(root, "from_checkpoint_id"),
        description=(xml.text(root, "description") or "")[:1024],
        require_consistency=request.flag("require_consistency"),
        legacy=request.flag("legacy"),
        correlation_id=request.correlation_id,
    )


def new_disk(root: ET.Element) -> DiskRequest:
    """Parse a `disk` element. Raises Refusal (400)."""
    domains = root.find("storage_domains")
    return DiskRequest(
        id=root.get("id"),
        name=xml.text(root, "name") or xml.text(root, "alias"),
        size=xml.number(root, "provisioned_size"),
        format=xml.text(root, "format"),
        sparse=xml.truth(xml.text(root, "sparse")),
        incremental=xml.text(root, "backup") == "incremental",
        storage_domain=None if domains is None else xml.reference(domains, "storage_domain"),
        description=xml.text(root, "description") or "",
        content_type=xml.text(root, "content_type") or "data",
        initial_size=xml.number(root, "initial_size"),
        shareable=bool(xml.truth(xml.text(root, "shareable"))),
        wipe_after_delete=bool(xml.truth(xml.text(root, "wipe_after_delete"))),
        propagate_errors=bool(xml.truth(xml.text(root, "propagate_errors"))),
        profile_id=xml.reference(root, "disk_profile"),
    )


def new_transfer(request: ApiRequest) -> NewTransfer:
    root = request.document("image_transfer")
    disk, image, backup, host = (root.find(tag) for tag in ("disk", "image", "backup", "host"))
    named = disk if disk is not None else image
    return NewTransfer(
        disk_id=None if named is None else named.get("id"),
        direction=xml.text(root, "direction") or "upload",
        format=xml.text(root, "format"),
        backup_id=None if backup is None else backup.get("id"),
        inactivity_timeout_s=xml.number(root, "inactivity_timeout"),
        timeout_policy=xml.text(root, "timeout_policy") or "legacy",
        shallow=bool(xml.truth(xml.text(root, "shallow"))),
        host_id=None if host is None else host.get("id"),
    )


def disk_copy(request: ApiRequest) -> DiskCopy:
    root = request.document("action")
    return DiskCopy(
        name=xml.text(root, "disk/name") or xml.text(root, "disk/alias"),
        storage_domain=xml.reference(root, "storage_domain"),
        profile_id=xml.reference(root, "disk_profile"),
    )


@dataclass(frozen=True, slots=True)
class ChangedAttachment:
    """A client's changes to an attachment and its disk; None means no change."""

    name: str | None
    bootable: bool | None
    interface: str | None


def changed_attachment(root: ET.Element) -> ChangedAttachment:
    return ChangedAttachment(
        name=xml.text(root, "disk/name") or xml.text(root, "disk/alias"),
        bootable=xml.truth(xml.text(root, "bootable")),
        interface=xml.text(root, "interface"),
    )


def new_attachment(root: ET.Element, disk_id: str) -> Attachment:
    """Parse a `disk_attachment` element for the disk `disk_id`."""
    active = xml.truth(xml.text(root, "active"))
    return Attachment(
        disk_id=disk_id,
        bootable=bool(xml.truth(xml.text(root, "bootable"))),
        interface=xml.text(root, "interface") or "virtio",
        active=True if active is None else active,
        read_only=bool(xml.truth(xml.text(root, "read_only"))),
        pass_discard=bool(xml.truth(xml.text(root, "pass_discard"))),
        uses_scsi_reservation=bool(xml.truth(xml.text(root, "uses_scsi_reservation"))),
    )
