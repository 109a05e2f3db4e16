# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings of a disk that a record keeps and a restore gives to the new disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pitr.model import DiskSettings

if TYPE_CHECKING:
    # An import needs no engine.
    from pitr.ovirt.engine import Disk


def settings_of(disk: Disk) -> DiskSettings:
    """Return the settings of a disk that was read with its VM."""
    return DiskSettings(
        format=disk.format,
        sparse=disk.sparse,
        interface=disk.interface,
        bootable=disk.bootable,
        active=disk.active,
        backup_enabled=disk.backup_enabled,
        storage_domain_id=disk.storage_domain_ids[0] if disk.storage_domain_ids else None,
        description=disk.description or None,
        disk_profile_id=disk.disk_profile_id,
        wipe_after_delete=disk.wipe_after_delete,
        propagate_errors=disk.propagate_errors,
        read_only=disk.attachment.read_only,
        pass_discard=disk.attachment.pass_discard,
        uses_scsi_reservation=disk.attachment.uses_scsi_reservation,
    )
