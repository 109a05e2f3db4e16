# SPDX-License-Identifier: GPL-2.0-or-later
"""Prune: remove the points that no rule keeps, and stored objects that no record names.

Records go first, each before what it stands on, then their blobs and indexes: wherever this is interrupted, every
point that is left is whole, and what is left of the others is named by no record. Nobody writes or reads points of
a VM while some of them are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pitr import times
from pitr.errors import BusyError, PitrError, RepositoryError
from pitr.jobs.upkeep.retention import Retention, kept
from pitr.model import Backup, Stream, VMName
from pitr.reporting import Notify
from pitr.repository import Repository, drills, names
from pitr.repository.damage import StoredDamage
from pitr.repository.store import ObjectMissing

#: What no record names is removed when it is older: nothing that is being written takes so long to get its record.
GRACE = timedelta(days=1)

DeleteElsewhere = Callable[[Backup, Stream], None]


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be, and what stays; newest first. `unreferenced`: the objects no record named.

    `left_elsewhere`: the ids of removed streams whose data lies elsewhere and was not deleted there.
    """

    removed: list[Backup] = field(default_factory=list)
    kept: list[Backup] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    left_elsewhere: list[str] = field(default_factory=list)


def prune(
    repository: Repository,
    retention: Retention,
    vms: Sequence[VMName],
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
    delete_elsewhere: DeleteElsewhere | None = None,
    notify: Notify,
) -> Pruned:
    """Remove what `retention` does not keep of these VMs, and what no record names in the whole repository.

    `delete_elsewhere` is called for each removed stream whose data lies elsewhere; where it fails, `notify` is told,
    and the rest goes on. A `dry_run` removes nothing and says the same. Raises BusyError when a VM is being backed up
    or its points are being read; the VMs before it are done then.
    """
    done = Pruned()
    for vm in vms:
        with ExitStack() as stack:
            if not dry_run:
                stack.enter_context(repository.removing_from_vm(vm))
            _prune_vm(repository, retention, vm, dry_run, done, delete_elsewhere, notify)
    _remove_unreferenced(repository, grace, dry_run, done, notify)
    return done


def _prune_vm(
    repository: Repository,
    retention: Retention,
    vm: VMName,
    dry_run: bool,
    done: Pruned,
    delete_elsewhere: DeleteElsewhere | None,
    notify: Notify,
) -> None:
    points = repository.catalog.points(vm.id)
    keep = kept(points, retention)
    ids = {backup.backup_id for backup in keep}
    # Newest first: so each goes before what it stands on.
    removed = [backup for backup in points if backup.backup_id not in ids]
    freed = sum(_stored(repository, backup) for backup in removed)
    if removed and not dry_run:
        repository.remove(removed)
        drills.remove_of(repository.store, removed)
        for backup in removed:
            for stream in backup.streams:
                repository.drop_stream(stream.disk_id, stream.stream_id)
                if stream.external is not None:
                    _delete_elsewhere(backup, stream, done, delete_elsewhere, notify)
    done.kept += keep
    done.removed += removed
    done.freed_bytes += freed


def _delete_elsewhere(
    backup: Backup, stream: Stream, done: Pruned, delete: DeleteElsewhere | None, notify: Notify
) -> None:
    try:
        if delete is not None:
            delete(backup, stream)
            return
        notify(f"the data of stream {stream.stream_id} lies elsewhere: no point needs it any more")
    except PitrError as error:
        notify(f"the data of stream {stream.stream_id}, which no point needs, is left: {error.message}")
    done.left_elsewhere.append(stream.stream_id)


def _stored(repository: Repository, backup: Backup) -> int:
    objects = [names.record(backup.vm.id, backup.point, backup.backup_id)]
    for stream in backup.streams:
        objects += [
            names.blob(stream.disk_id, stream.stream_id),
            names.index(stream.disk_id, stream.stream_id),
        ]
    return sum(_size(repository, name) for name in objects)


def _size(repository: Repository, name: str) -> int:
    try:
        return repository.store.size(name)
    except ObjectMissing:
        return 0


# What no record names


def _remove_unreferenced(
    repository: Repository, grace: timedelta, dry_run: bool, done: Pruned, notify: Notify
) -> None:
    with ExitStack() as stack:
        try:
            # A backup's streams are named by no record before its end, however long that takes.
            for vm_id in sorted(repository.locked_vms()):
                stack.enter_context(repository.lock_vm(VMName(vm_id, vm_id)))
        except RepositoryError as error:
            # A dry run works on a repository that cannot be written, too.
            if not dry_run:
                raise
            notify(f"what no record names is not looked for: {error.message}")
            return
        except BusyError as error:
            notify(f"what no record names is left for another time: {error.message}")
            return
        why_not = _why_unsure(repository)
        if why_not is not None:
            notify(f"what no record names is left alone: {why_not}")
            return
        for name in sorted(_unreferenced(repository, times.now() - grace)):
            done.unreferenced.append(name)
            done.freed_bytes += _size(repository, name)
            if not dry_run:
                repository.store.delete(name)


def _why_unsure(repository: Repository) -> str | None:
    """Why it cannot be told for certain what the records name, None when it can."""
    known = repository.catalog.known()
    for name in sorted(set(repository.store.list(names.BACKUPS)) - known.keys()):
        try:
            repository.read_record(name)
        except StoredDamage as error:
            return f"a record cannot be read: {error.message}"
    if not known:
        return "the repository holds no record at all"
    return None


def _unreferenced(repository: Repository, limit: datetime) -> Iterator[str]:
    """The names below the streams' folder that no record names, written before `limit`."""
    named: set[str] = set()
    for backup in repository.catalog.points():
        for stream in backup.streams:
            # A lost parent may still be found again, and its children can do nothing without it.
            for stream_id in (stream.stream_id, stream.parent_stream_id):
                if stream_id is not None:
                    named.add(names.blob(stream.disk_id, stream_id))
                    named.add(names.index(stream.disk_id, stream_id))
    for name in repository.store.list(names.STREAMS):
        if name in named:
            continue
        try:
            written = repository.store.written(name)
        except ObjectMissing:
            continue
        if written < limit:
            yield name
