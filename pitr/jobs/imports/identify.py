# SPDX-License-Identifier: GPL-2.0-or-later
"""Match the names and ids of an imported stream with the VMs, disks and points of the repository."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pitr.errors import UsageError
from pitr.jobs import find
from pitr.model import Backup, DiskSettings, Stream, VMName
from pitr.repository.catalog import Catalog
from pitr.repository.names import usable_id, usable_name
from pitr.text import printable


def choose_vm(catalog: Catalog, name: str | None, meta: Mapping[str, Any]) -> VMName:
    """Return the VM `name` (a name or an id), else the VM that the stream names; it may be new to the repository.

    Raises UsageError if neither names a VM, or if several VMs have the name.
    """
    stream_id, stream_name = usable_id(meta.get("vm-id")), usable_name(meta.get("vm-name"))
    wanted = name or stream_id
    if wanted is None:
        raise UsageError("the stream does not name its VM", "Name it with --vm.")
    known = find.by_id_or_name(wanted, "VMs", [(vm.id, vm.name, vm) for vm in catalog.vms()])
    if known is not None:
        return known
    if stream_id is not None and wanted in (stream_id, stream_name):
        return VMName(stream_id, stream_name or stream_id)
    return VMName(str(uuid.uuid4()), usable_name(wanted) or "imported")


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """A disk of the VM; `settings` are None if the repository does not know the disk."""

    id: str
    name: str
    settings: DiskSettings | None


def choose_disk(
    catalog: Catalog, vm: VMName, name: str | None, source_id: str | None, source_name: str | None
) -> DiskIdentity:
    """Return the disk `name` (a name or an id), else the disk that the source names; it may be new to the repository.

    Raises UsageError if neither names a disk, or if several disks have the name.
    """
    wanted = name or source_id or source_name
    if wanted is None:
        raise UsageError("the stream does not name its disk", "Name it with --disk.")
    newest: dict[str, Stream] = {}
    for backup in catalog.points(vm.id):
        for stream in backup.streams:
            newest.setdefault(stream.disk_id, stream)
    known = find.by_id_or_name(
        wanted, "disks", [(stream.disk_id, stream.name, stream) for stream in newest.values()]
    )
    if known is not None:
        return DiskIdentity(known.disk_id, known.name, known.settings)
    if source_id is not None and wanted in (source_id, source_name):
        return DiskIdentity(source_id, source_name or source_id, None)
    return DiskIdentity(str(uuid.uuid4()), wanted, None)


def parent_by_stream(catalog: Catalog, vm: VMName, disk_id: str, stream_id: str) -> tuple[Backup, Stream]:
    """Return the stream with this id, which an incremental stream is based on. Raises UsageError."""
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is not None and stream.stream_id == stream_id:
            return backup, stream
    raise UsageError(
        f"the stream is based on stream {printable(stream_id)}, which the repository does not hold for this disk",
        "Import that stream first.",
    )


def holds_named(catalog: Catalog, vm: VMName, disk_id: str, name: str) -> bool:
    """Return whether a point whose id or checkpoint is `name` holds the disk."""
    return bool(_named(catalog, vm, disk_id, name))


def parent_named(catalog: Catalog, vm: VMName, disk_id: str, name: str, kind: str) -> tuple[Backup, Stream]:
    """Return the disk at the newest point whose id or checkpoint is `name`. Raises UsageError.

    `kind` is the error's word for the parent: "point" or "snapshot".
    """
    named = _named(catalog, vm, disk_id, name)
    if not named:
        raise UsageError(
            f"the stream is based on {kind} {printable(name)}, which the repository does not hold for this disk",
            "Import that one first, or name the point that the stream is based on with --onto.",
        )
    newest = named[0]
    siblings = [backup for backup, _ in named if backup.parent_id == newest[0].parent_id is not None]
    if len(siblings) > 1:
        # virtnbdbackup gives a differential backup the name of the checkpoint that the next incremental creates.
        raise UsageError(
            f"the stream is based on {kind} {printable(name)}, but {len(siblings)} points have this name",
            f"Name the right one with --onto: {', '.join(backup.backup_id for backup in siblings)}.",
        )
    return newest


def _named(catalog: Catalog, vm: VMName, disk_id: str, name: str) -> list[tuple[Backup, Stream]]:
    matches = []
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is not None and name in (backup.backup_id, backup.checkpoint_id):
            matches.append((backup, stream))
    return matches


def parent_at(backup: Backup, disk_id: str) -> tuple[Backup, Stream]:
    """Return the disk at this point. Raises UsageError if the point does not hold it."""
    stream = backup.stream_of(disk_id)
    if stream is None:
        raise UsageError(f"point {backup.backup_id} does not hold the disk")
    return backup, stream


def free_backup_id(catalog: Catalog, backup_id: str | None) -> str | None:
    """Return the original id of a backup; None if it is in use."""
    return None if backup_id is None or catalog.get(backup_id) is not None else backup_id
