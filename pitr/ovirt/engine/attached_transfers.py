# SPDX-License-Identifier: GPL-2.0-or-later
"""Transfers that somebody else has started and will end: only looked up."""

from __future__ import annotations

from dataclasses import dataclass, field

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.faults import EngineFault
from pitr.ovirt.engine.values import enum_text, is_path_segment


@dataclass(frozen=True, slots=True)
class AttachedTransfer:
    """What the engine says of a transfer now. The URLs hold a secret, the ticket; they are there while it serves.

    `disk_id` and `backup_id` are None where the engine does not say them. `phase` "transferring": data can flow.
    """

    id: str
    phase: str
    direction: str
    disk_id: str | None
    backup_id: str | None
    transfer_url: str | None = field(repr=False)
    proxy_url: str | None = field(repr=False)


def find_transfer(engine: Engine, transfer_id: str) -> AttachedTransfer | None:
    """Return the transfer with this id, None when the engine knows none. Raises EngineError."""
    if not is_path_segment(transfer_id):
        return None
    try:
        found = engine.call(
            f"reading transfer {transfer_id}",
            lambda system: system.image_transfers_service().image_transfer_service(transfer_id).get(),
        )
    except EngineFault as fault:
        if fault.missing:
            return None
        raise
    # The answer calls the disk an image.
    disk = found.image or found.disk
    return AttachedTransfer(
        id=transfer_id,
        phase=enum_text(found.phase),
        direction=enum_text(found.direction),
        disk_id=disk.id if disk is not None else None,
        backup_id=found.backup.id if found.backup is not None else None,
        transfer_url=found.transfer_url,
        proxy_url=found.proxy_url,
    )
