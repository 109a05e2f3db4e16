# SPDX-License-Identifier: GPL-2.0-or-later
"""Look up transfers that another program started and will end."""

from __future__ import annotations

from dataclasses import dataclass, field

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, is_path_segment


@dataclass(frozen=True, slots=True)
class AttachedTransfer:
    """A transfer as the engine reports it now. `phase` is "transferring" while data can flow.

    The URLs contain the ticket, which is a secret; they are None when the transfer is not open. `disk_id` and
    `backup_id` are None when the engine does not report them.
    """

    id: str
    phase: str
    direction: str
    disk_id: str | None
    backup_id: str | None
    transfer_url: str | None = field(repr=False)
    proxy_url: str | None = field(repr=False)


def find_transfer(engine: Engine, transfer_id: str) -> AttachedTransfer | None:
    """Return the transfer with this id, None if the engine has none. Raises EngineError."""
    if not is_path_segment(transfer_id):
        return None
    try:
        transfer = engine.call(
            f"reading transfer {transfer_id}",
            lambda system: system.image_transfers_service().image_transfer_service(transfer_id).get(),
        )
    except EngineFault as fault:
        if fault.missing:
            return None
        raise
    # The answer calls the disk an image.
    disk = transfer.image or transfer.disk
    return AttachedTransfer(
        id=transfer_id,
        phase=enum_text(transfer.phase),
        direction=enum_text(transfer.direction),
        disk_id=disk.id if disk is not None else None,
        backup_id=transfer.backup.id if transfer.backup is not None else None,
        transfer_url=transfer.transfer_url,
        proxy_url=transfer.proxy_url,
    )
