# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove records and all that only they use."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from pitr.jobs.consolidate.shared_blobs import BlobsOfRemoved
from pitr.model import Backup
from pitr.repository import Repository, content_checks, drills, findings, marks, names, removed_points
from pitr.repository.store import ObjectMissing


def remove_replaced(repository: Repository, replaced: Sequence[Backup], blobs: BlobsOfRemoved) -> None:
    """Remove records whose place others have taken; where removals only hide, hide them."""
    if repository.removes_later:
        removed_points.hide(repository, replaced)
    else:
        remove_records(repository, replaced, blobs)


def remove_records(repository: Repository, removed: Sequence[Backup], blobs: BlobsOfRemoved) -> None:
    """Remove the records in this order, then all that only they use, but for what is stored externally."""
    store = repository.store
    repository.remove(removed)
    drills.remove_of(store, removed)
    content_checks.remove_of(store, removed)
    findings.remove_of(store, removed)
    marks.remove_of(store, removed)
    for backup in removed:
        for stream in backup.streams:
            keep = stream.stream_id in blobs.shared
            repository.drop_stream(stream.disk_id, stream.stream_id, keep_blob=keep)
    for disk_id, stream_id in blobs.orphans:
        repository.drop_stream(disk_id, stream_id)


def size_of(repository: Repository, backup: Backup, shared: AbstractSet[str]) -> int:
    """Return the bytes of a record and its streams, without the blobs of those in `shared`."""
    objects = {names.record(backup.vm.id, backup.point, backup.backup_id)}
    for stream in backup.streams:
        objects.add(names.index(stream.disk_id, stream.stream_id))
        objects.add(names.index_copy(stream.disk_id, stream.stream_id))
        if stream.stream_id not in shared:
            objects.add(names.blob(stream.disk_id, stream.stream_id))
    return sum(stored_size(repository, name) for name in objects)


def size_of_orphans(repository: Repository, blobs: BlobsOfRemoved) -> int:
    """Return the bytes of the blobs that only removed records use."""
    return sum(stored_size(repository, names.blob(*key)) for key in blobs.orphans)


def stored_size(repository: Repository, name: str) -> int:
    """Return the size of a stored object in bytes, 0 if it does not exist."""
    try:
        return repository.store.size(name)
    except ObjectMissing:
        return 0
