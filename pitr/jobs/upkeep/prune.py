# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove the points that no rule keeps, and unreferenced objects: stored objects that no record names.

pitr removes records first, each before the points it is based on, then their blobs and indexes. So after any
interruption, every remaining point is complete and all other remaining objects are unreferenced. While pitr removes
points of a VM, no other process can write or read the VM's points.
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
from pitr.repository import Repository, drills, findings, names
from pitr.repository.damage import StoredDamage
from pitr.repository.store import ObjectMissing

#: Only older unreferenced objects are removed: a running backup writes its record sooner than this.
GRACE = timedelta(days=1)

DeleteExternal = Callable[[Backup, Stream], None]
"""Deletes the external data of a removed stream; raises PitrError if that fails."""


@dataclass(slots=True)
class Pruned:
    """What a run removed (or would remove) and kept, newest first. `unreferenced`: the names of such objects.

    `left_external`: the ids of removed streams whose external data was not deleted.
    """

    removed: list[Backup] = field(default_factory=list)
    kept: list[Backup] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    left_external: list[str] = field(default_factory=list)


def prune(
    repository: Repository,
    retention: Retention,
    vms: Sequence[VMName],
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
    delete_external: DeleteExternal | None = None,
    notify: Notify,
) -> Pruned:
    """Remove the points of these VMs that `retention` does not keep, and all unreferenced objects of the repository.

    `delete_external` runs for each removed stream that is stored externally. If it fails, `notify` gets a line and
    prune goes on. `dry_run` removes nothing and returns the same. Raises BusyError if a VM is being backed up or its
    points are being read; the VMs before it are done then.
    """
    pruning = _Pruning(repository, dry_run, delete_external, notify, Pruned())
    for vm in vms:
        with ExitStack() as stack:
            if not dry_run:
                stack.enter_context(repository.removing_from_vm(vm))
            pruning.prune_vm(vm, retention)
    pruning.remove_unreferenced(grace)
    return pruning.result


@dataclass(frozen=True, slots=True)
class _Pruning:
    """The run in progress; it collects everything in `result`."""

    repository: Repository
    dry_run: bool
    delete_external: DeleteExternal | None
    notify: Notify
    result: Pruned

    def prune_vm(self, vm: VMName, retention: Retention) -> None:
        points = self.repository.catalog.points(vm.id)
        keep = kept(points, retention)
        ids = {backup.backup_id for backup in keep}
        # Newest first: each point goes before the points it is based on.
        removed = [backup for backup in points if backup.backup_id not in ids]
        freed = sum(_stored(self.repository, backup) for backup in removed)
        if removed and not self.dry_run:
            self.repository.remove(removed)
            drills.remove_of(self.repository.store, removed)
            findings.remove_of(self.repository.store, removed)
            for backup in removed:
                for stream in backup.streams:
                    self.repository.drop_stream(stream.disk_id, stream.stream_id)
                    if stream.external is not None:
                        self._delete_external(backup, stream)
        if not self.dry_run:
            findings.remove_of_lost_records(self.repository.store, vm.id, points, keep)
        self.result.kept += keep
        self.result.removed += removed
        self.result.freed_bytes += freed

    def _delete_external(self, backup: Backup, stream: Stream) -> None:
        try:
            if self.delete_external is not None:
                self.delete_external(backup, stream)
                return
            self.notify(
                f"stream {stream.stream_id} is stored externally and no point needs it any more: delete its data there"
            )
        except PitrError as error:
            self.notify(
                f"cannot delete the external data of stream {stream.stream_id}, which no point needs: {error.message}"
            )
        self.result.left_external.append(stream.stream_id)

    def remove_unreferenced(self, grace: timedelta) -> None:
        repository = self.repository
        with ExitStack() as stack:
            try:
                # The streams of a running backup are unreferenced until it commits its record.
                for vm_id in sorted(repository.locked_vms()):
                    stack.enter_context(repository.lock_vm(VMName(vm_id, vm_id)))
            except RepositoryError as error:
                # A dry run also works on a read-only repository.
                if not self.dry_run:
                    raise
                self.notify(f"skipped the search for unreferenced objects: {error.message}")
                return
            except BusyError as error:
                self.notify(f"unreferenced objects stay until the next run: {error.message}")
                return
            doubt = _doubt(repository)
            if doubt is not None:
                self.notify(f"unreferenced objects stay: {doubt}")
                return
            for name in sorted(_unreferenced(repository, times.now() - grace)):
                self.result.unreferenced.append(name)
                self.result.freed_bytes += _size(repository, name)
                if not self.dry_run:
                    repository.store.delete(name)


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


def _doubt(repository: Repository) -> str | None:
    """Return why the list of referenced objects may be incomplete; None if it is complete."""
    known = repository.catalog.known()
    for name in sorted(set(repository.store.list(names.BACKUPS)) - known.keys()):
        try:
            repository.read_record(name)
        except StoredDamage as error:
            return f"cannot read a record: {error.message}"
    if not known:
        return "the repository holds no record at all"
    return None


def _unreferenced(repository: Repository, limit: datetime) -> Iterator[str]:
    """Yield the names of unreferenced blobs and indexes that were written before `limit`."""
    referenced: set[str] = set()
    for backup in repository.catalog.points():
        for stream in backup.streams:
            # A lost parent may come back, and the streams based on it need it.
            for stream_id in (stream.stream_id, stream.parent_stream_id):
                if stream_id is not None:
                    referenced.add(names.blob(stream.disk_id, stream_id))
                    referenced.add(names.index(stream.disk_id, stream_id))
    for name in repository.store.list(names.STREAMS):
        if name in referenced:
            continue
        try:
            written = repository.store.written(name)
        except ObjectMissing:
            continue
        if written < limit:
            yield name
