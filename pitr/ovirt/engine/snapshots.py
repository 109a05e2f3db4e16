# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the snapshots that backups leave behind: the engine can report success although the snapshot still exists."""

from __future__ import annotations

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.values import required

#: The description that the engine gives the snapshot of a backup.
_DESCRIPTION = "Auto-generated for Backup VM"


def backup_snapshots(engine: Engine, vm_id: str) -> list[str]:
    """Return the ids of the VM's snapshots that the engine took for backups. Raises EngineError."""
    found = engine.call(
        f"listing the snapshots of VM {vm_id}",
        lambda system: system.vms_service().vm_service(vm_id).snapshots_service().list(),
    )
    return [
        required(snapshot.id, "a snapshot's id")
        for snapshot in found
        if (snapshot.description or "").startswith(_DESCRIPTION)
    ]
