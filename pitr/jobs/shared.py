# SPDX-License-Identifier: GPL-2.0-or-later
"""Say what a disk at a point shares with other disks: the frames in their blobs that it uses."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

from pitr.errors import PitrError
from pitr.model import Part, Stream, VMName
from pitr.repository import Repository, names, removed_points
from pitr.repository.catalog import contents


@dataclass(frozen=True, slots=True)
class Shared:
    """How many bytes of a disk are stored in blobs of another disk. `vm` had that disk; None if unknown."""

    vm: VMName | None
    disk_id: str
    bytes: int


def shared_of(repository: Repository, stream: Stream) -> list[Shared]:
    """Return what a stream shares with other disks, most first. Raises RepositoryError."""
    by_disk: dict[str, list[Part]] = defaultdict(list)
    for part in stream.parts:
        if part.disk_id != stream.disk_id:
            by_disk[part.disk_id].append(part)
    found = [
        Shared(_vm_of(repository, parts[0]), disk_id, sum(part.live_bytes for part in parts))
        for disk_id, parts in by_disk.items()
    ]
    return sorted(found, key=lambda shared: (-shared.bytes, shared.disk_id))


def _vm_of(repository: Repository, part: Part) -> VMName | None:
    for catalog in (repository.catalog, removed_points.rows(repository)):
        vm = contents.vm_of_disk(catalog, part.disk_id)
        if vm is not None:
            return vm
    # All its points are gone, but its blobs still say whose they are.
    from pitr.repository.blob_walk import BlobWalk  # noqa: PLC0415 - most disks share nothing

    with suppress(PitrError), repository.store.open(names.blob(part.disk_id, part.stream_id)) as file:
        meta = BlobWalk(file).meta
        vm_id, vm_name = meta.get("vm-id"), meta.get("vm-name")
        if isinstance(vm_id, str) and isinstance(vm_name, str):
            return VMName(vm_id, vm_name)
    return None
