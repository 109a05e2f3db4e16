# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is who: which VM, disk and point of the repository it is that something from elsewhere names."""

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
    """The VM that is named, else the one that the stream names; known to the repository or new."""
    said_id, said_name = usable_id(meta.get("vm-id")), usable_name(meta.get("vm-name"))
    wanted = name or said_id
    if wanted is None:
        raise UsageError("the stream does not say which VM it is of", "Name it with --vm.")
    found = find.by_id_or_name(wanted, "VMs", [(vm.id, vm.name, vm) for vm in catalog.vms()])
    if found is not None:
        return found
    if said_id is not None and wanted in (said_id, said_name):
        return VMName(said_id, said_name or said_id)
    return VMName(str(uuid.uuid4()), usable_name(wanted) or "imported")


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """Which disk of the VM it is; `settings` are None for a disk that the repository does not know."""

    id: str
    name: str
    settings: DiskSettings | None


def choose_disk(
    catalog: Catalog, vm: VMName, name: str | None, said_id: str | None, said_name: str | None
) -> DiskIdentity:
    """The disk that is named, else the one that the source names; known to the repository or new."""
    wanted = name or said_id or said_name
    if wanted is None:
        raise UsageError("the stream does not say which disk it is of", "Name it with --disk.")
    known: dict[str, Stream] = {}
    for backup in catalog.points(vm.id):
        for stream in backup.streams:
            known.setdefault(stream.disk_id, stream)
    found = find.by_id_or_name(
        wanted, "disks", [(stream.disk_id, stream.name, stream) for stream in known.values()]
    )
    if found is not None:
        return DiskIdentity(found.disk_id, found.name, found.settings)
    if said_id is not None and wanted in (said_id, said_name):
        return DiskIdentity(said_id, said_name or said_id, None)
    return DiskIdentity(str(uuid.uuid4()), wanted, None)


def parent_by_stream(catalog: Catalog, vm: VMName, disk_id: str, stream_id: str) -> tuple[Backup, Stream]:
    """The stream with this id, which an incremental one says that it stands on. Raises UsageError."""
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is not None and stream.stream_id == stream_id:
            return backup, stream
    raise UsageError(
        f"the stream stands on the stream {printable(stream_id)}, which the repository does not hold for this disk",
        "Import that one first.",
    )


def parent_named(catalog: Catalog, vm: VMName, disk_id: str, name: str, what: str) -> tuple[Backup, Stream]:
    """The newest point of the disk that has `name` as its id or its checkpoint. Raises UsageError."""
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is not None and name in (backup.backup_id, backup.checkpoint_id):
            return backup, stream
    raise UsageError(
        f"the stream stands on the {what} {printable(name)}, which the repository does not hold for this disk",
        "Import that one first, or name the point that it stands on with --onto.",
    )


def parent_at(backup: Backup, disk_id: str) -> tuple[Backup, Stream]:
    """The disk at the point that --onto names. Raises UsageError."""
    stream = backup.stream_of(disk_id)
    if stream is None:
        raise UsageError(f"the point {backup.backup_id} does not hold the disk")
    return backup, stream


def free_ids(catalog: Catalog, stream_id: str | None, backup_id: str | None) -> tuple[str | None, str | None]:
    """The ids that a stream had elsewhere, as far as they are free here. Raises UsageError for a known stream."""
    for backup in catalog.points():
        if stream_id is not None and any(stream.stream_id == stream_id for stream in backup.streams):
            raise UsageError(
                f"the stream {stream_id} is in the repository already, in backup {backup.backup_id}"
            )
        if backup.backup_id == backup_id:
            backup_id = None
    return stream_id, backup_id
