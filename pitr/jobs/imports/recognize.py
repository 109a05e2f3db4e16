# SPDX-License-Identifier: GPL-2.0-or-later
"""Recognize a source that was imported before, so that a second import adds nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import zip_longest

from pitr.model import Backup, Kind, Mode, Stream, VMName
from pitr.repository import Repository
from pitr.repository.catalog import Catalog


def imported_file(
    catalog: Catalog,
    vm: VMName,
    disk_id: str,
    *,
    checkpoint_id: str | None,
    times: tuple[datetime, datetime],
    parent: Stream | None,
) -> tuple[Backup, Stream] | None:
    """Return the imported stream of this disk and checkpoint with a time in `times` (UTC); None if there is none.

    `parent` is the stream that the file is based on.
    """
    parent_id = parent.stream_id if parent is not None else None
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is None or backup.mode is not Mode.IMPORTED:
            continue
        same_time = backup.lo <= times[0] and times[1] <= backup.point
        if same_time and backup.checkpoint_id == checkpoint_id and stream.parent_stream_id == parent_id:
            return backup, stream
    return None


def stream_with_id(catalog: Catalog, stream_id: str) -> tuple[Backup, Stream] | None:
    """Return the stream with this id and its backup; None if the repository does not hold it."""
    backup = catalog.owner_of(stream_id)
    if backup is None:
        return None
    return backup, next(stream for stream in backup.streams if stream.stream_id == stream_id)


def disk_of_backup(catalog: Catalog, backup_id: str, disk: str) -> tuple[Backup, Stream] | None:
    """Return the disk (an id or a name) of the backup with this id; None if the repository does not hold it."""
    backup = catalog.get(backup_id)
    if backup is None:
        return None
    for stream in backup.streams:
        if disk in (stream.disk_id, stream.name):
            return backup, stream
    return None


def same_point(repository: Repository, new: Backup, *, dated: bool) -> Backup | None:
    """Return an imported point with the data of `new`, whose streams are stored but not committed; None without one.

    That point may hold more disks. The digests of all frames decide. The times are compared only if the source or the
    user told the time (`dated`).
    """
    for backup in repository.catalog.points(new.vm.id):
        if (
            backup.mode is Mode.IMPORTED
            and backup.checkpoint_id == new.checkpoint_id
            and (not dated or (backup.lo <= new.lo and new.point <= backup.point))
            and all(_same_data(repository, backup, new, stream) for stream in new.streams)
        ):
            return backup
    return None


def _same_data(repository: Repository, backup: Backup, new: Backup, stream: Stream) -> bool:
    other = backup.stream_of(stream.disk_id)
    if other is None or _outline(other) != _outline(stream):
        return False
    with repository.open_index(backup, other) as old_index, repository.open_index(new, stream) as index:
        return all(
            old is not None
            and row is not None
            and (old.start, old.length, old.digest) == (row.start, row.length, row.digest)
            for old, row in zip_longest(old_index.rows(), index.rows())
        )


def _outline(stream: Stream) -> Sequence[int | Kind | str | None]:
    return (
        stream.kind,
        stream.size,
        stream.parent_stream_id,
        stream.data_bytes,
        stream.zero_bytes,
        stream.extents,
    )
