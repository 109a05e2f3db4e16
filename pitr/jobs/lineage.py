# SPDX-License-Identifier: GPL-2.0-or-later
"""Follow a disk through its names, and through the disks that took its place in a restore."""

from __future__ import annotations

from pitr.model import Backup, Stream
from pitr.repository import Repository, successions
from pitr.repository.successions import Successions


def disk_ids_of(repository: Repository, vm_id: str, name: str) -> frozenset[str]:
    """Return the ids of the VM's disks that had this id or name at any point, and of their predecessors and successors.

    Raises RepositoryError.
    """
    ids = {name}
    for backup in repository.catalog_of_vm(vm_id).points(vm_id):
        ids |= {stream.disk_id for stream in backup.streams if stream.name == name}
        ids |= {disk.disk_id for disk in backup.left_out if disk.name == name}
    return successions.of_vm(repository.store, vm_id).family(ids)


def counterpart(repository: Repository, backup: Backup, stream: Stream) -> Stream | None:
    """Return the stream of the same disk, or of its predecessor or successor, in another point of the VM.

    None if the point does not hold it, or holds several of them. Raises RepositoryError.
    """
    same = backup.stream_of(stream.disk_id)
    return same or only_of_family(successions.of_vm(repository.store, backup.vm.id), backup, stream.disk_id)


def only_of_family(known: Successions, backup: Backup, disk_id: str) -> Stream | None:
    """Return the only stream of the disk's predecessors and successors in the point; None if there are not one."""
    family = known.family([disk_id])
    matches = [stream for stream in backup.streams if stream.disk_id in family]
    return matches[0] if len(matches) == 1 else None
