# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove the points that no rule keeps, and unreferenced objects: stored objects that no record names.

pitr removes records first, each before the points it is based on, then their blobs and indexes. So after any
interruption, every remaining point is complete and all other remaining objects are unreferenced. While pitr removes
points of a VM, no other process can write or read the VM's points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from pitr import times
from pitr.errors import BusyError, Interrupted, PitrError, RepositoryError
from pitr.jobs import holds, point_order
from pitr.jobs.consolidate.replaced import remove_records, size_of, size_of_orphans, stored_size
from pitr.jobs.consolidate.shared_blobs import BlobsOfRemoved, blobs_of_removed
from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of_vm
from pitr.jobs.point_order import replaced_already, without_replaced
from pitr.jobs.upkeep import small_objects, sweep, unreferenced
from pitr.jobs.upkeep.consolidation import KeptBy, KeptPoints, kept_points
from pitr.jobs.upkeep.protect import protect_kept
from pitr.jobs.upkeep.pruned import BusyVM, FailedRemoval, Pruned
from pitr.jobs.upkeep.retention import Retention, kept_by
from pitr.model import Backup, Stream, VMName, parents_of
from pitr.reporting import Notify
from pitr.repository import (
    Repository,
    catalog_snapshots,
    configurations,
    findings,
    names,
    proofs,
    removed_points,
    tombstones,
)
from pitr.repository.catalog import contents
from pitr.repository.protection import protected_until
from pitr.repository.removed_points import RemovedPoint
from pitr.repository.store.object_errors import ObjectStoreError
from pitr.text import counted

#: Only older unreferenced objects are removed: a running backup writes its record sooner than this.
GRACE = timedelta(days=1)

DeleteExternal = Callable[[Backup, Stream], None]
"""Deletes the external data of a removed stream; raises PitrError if that fails."""


Keep = Callable[[Sequence[Backup], Mapping[str, PointFacts]], KeptBy]
"""Chooses the points to keep among all points of one VM, newest first, with the facts about them by backup id.

It must keep what a kept point is based on.
"""


def prune(
    repository: Repository,
    retention: Retention,
    vms: Sequence[VMName],
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
    only: bool = False,
    delete_external: DeleteExternal | None = None,
    consolidate: bool = True,
    notify: Notify,
) -> Pruned:
    """Remove the points of these VMs that `retention` does not keep, and all unreferenced objects of the repository.

    With `only`, remove just the unreferenced objects that backups of these VMs left: this takes no look at other VMs.
    `delete_external` runs for each removed stream that is stored externally. If it fails, `notify` gets a line and
    prune goes on. `consolidate` makes kept points independent of those that only they need, which then go, too, and
    cuts long chains. `dry_run` removes nothing and returns the same. A VM that is being backed up or read is left
    alone, and a failure ends the removal from its VM only: the result lists both. Raises Interrupted.
    """
    removal = Removal(repository, dry_run, delete_external, notify, consolidate)
    removal.from_vms(vms, lambda points, facts: kept_with_facts(points, facts, retention))
    sweep.sweep(removal, vms if only else None)
    removal.of_unreferenced(grace, vms if only else None)
    removal.of_old_notes()
    protect_kept(repository, vms, removal.result, dry_run=dry_run)
    if not dry_run and not only:
        catalog_snapshots.try_to_store(repository, notify)
    return removal.result


def kept_with_facts(
    points: Sequence[Backup], facts: Mapping[str, PointFacts], retention: Retention
) -> KeptBy:
    """Return the points of one VM that rules and holds keep. Rules do not count damaged points."""
    damaged = {backup_id for backup_id, each in facts.items() if each.damaged}
    held = {
        backup_id: holds.in_words(each.marks.hold)
        for backup_id, each in facts.items()
        if each.marks.hold is not None
    }
    return kept_by(points, retention, damaged=damaged, held=held)


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal in progress; it collects everything in `result`."""

    repository: Repository
    dry_run: bool
    delete_external: DeleteExternal | None
    notify: Notify
    consolidate: bool = False
    result: Pruned = field(default_factory=Pruned)

    def from_vms(self, vms: Sequence[VMName], keep: Keep) -> None:
        """Remove the points that `keep` does not return, of each VM that is not busy. Raises Interrupted."""
        for vm in vms:
            try:
                with ExitStack() as stack:
                    if not self.dry_run:
                        stack.enter_context(self._locked(vm))
                    self._from_vm(vm, keep)
            except Interrupted:
                self._tell_removed()
                raise
            except BusyError as error:
                self.result.busy.append(BusyVM(vm, error.message))
            except PitrError as error:
                self.result.failed.append(FailedRemoval(vm, error))

    def _locked(self, vm: VMName) -> AbstractContextManager[None]:
        # What is only hidden stays readable.
        repository = self.repository
        return repository.lock_vm(vm) if repository.removes_later else repository.removing_from_vm(vm)

    def _from_vm(self, vm: VMName, keep: Keep) -> None:
        if self.repository.removes_later:
            self._hide_from_vm(vm, keep)
        else:
            self._remove_from_vm(vm, keep)

    def _hide_from_vm(self, vm: VMName, keep: Keep) -> None:
        repository = self.repository
        catalog = (
            repository.catalog_of_vm(vm.id) if self.dry_run else repository.opened_catalog().again(vm.id)
        )
        points = point_order.newest_first(catalog.points(vm.id), times.now())
        facts = facts_of_vm(repository, vm.id)
        left_over = replaced_already(points)
        points = without_replaced(points)
        kept = self._kept(points, left_over, facts, keep(points, facts))
        unwanted = kept.unwanted(points)
        gone = {backup.backup_id for backup in unwanted}
        hidden: Mapping[str, RemovedPoint] = {}
        try:
            if not self.dry_run:
                gone = set()
                hide = children_first([*unwanted, *kept.replaced(points)])
                if hide:
                    removed_points.hide(repository, hide)
        finally:
            if unwanted and not self.dry_run:
                hidden = {each.backup.backup_id: each for each in removed_points.of_vm(repository, vm.id)}
                gone = {backup.backup_id for backup in unwanted} & hidden.keys()
            for backup in points:
                of_point = facts.get(backup.backup_id, NO_FACTS)
                if backup.backup_id in gone:
                    removed = hidden.get(backup.backup_id)
                    self.result.removed.add(backup, facts=replace(of_point, removed=removed))
                else:
                    self._keep(backup, kept, of_point)

    def _remove_from_vm(self, vm: VMName, keep: Keep) -> None:
        points = point_order.newest_first(self.repository.catalog_of_vm(vm.id).points(vm.id), times.now())
        facts = facts_of_vm(self.repository, vm.id)
        left_over = replaced_already(points)
        points = without_replaced(points)
        kept = self._kept(points, left_over, facts, keep(points, facts))
        unwanted = kept.unwanted(points)
        replaced = kept.replaced(points)
        going = {backup.backup_id for backup in (*unwanted, *replaced)}
        remaining = [
            *(backup for backup in points if backup.backup_id not in going),
            *kept.made.values(),
        ]
        blobs = blobs_of_removed(self.repository, [*unwanted, *replaced], remaining, planned=self.dry_run)
        sizes = {
            backup.backup_id: size_of(self.repository, backup, blobs.shared)
            for backup in (*unwanted, *replaced)
        }
        orphans = size_of_orphans(self.repository, blobs)
        configurations = small_objects.configurations_of_only(self.repository, unwanted)
        sizes_of_configurations = sum(stored_size(self.repository, name) for name in configurations)
        gone = {backup.backup_id for backup in unwanted}
        try:
            if not self.dry_run:
                self._remove(vm, points, [*unwanted, *replaced], blobs, kept)
                small_objects.remove_configurations(self.repository, configurations)
            self.result.freed_bytes += sizes_of_configurations + orphans
            self.result.freed_bytes += sum(sizes[backup.backup_id] for backup in replaced)
        except BaseException:
            # The result must be true for points of this VM, too: a point is gone if its record is.
            gone = set()
            gone = {backup.backup_id for backup in unwanted if not _is_stored(self.repository, backup)}
            raise
        finally:
            for backup in points:
                of_point = facts.get(backup.backup_id, NO_FACTS)
                if backup.backup_id in gone:
                    self.result.removed.add(backup, facts=of_point)
                else:
                    self._keep(backup, kept, of_point)
            self.result.freed_bytes += sum(sizes[backup_id] for backup_id in gone)

    def _kept(
        self,
        points: Sequence[Backup],
        left_over: Sequence[Backup],
        facts: Mapping[str, PointFacts],
        reasons: KeptBy,
    ) -> KeptPoints:
        kept = KeptPoints(reasons, left_over=left_over)
        if not self.consolidate:
            return kept
        kept = kept_points(self.repository, points, facts, kept, dry_run=self.dry_run, notify=self.notify)
        for new in kept.made.values():
            self.result.consolidated.add(new)
        self.result.copied_bytes += kept.copied_bytes
        return kept

    def _keep(self, backup: Backup, kept: KeptPoints, facts: PointFacts) -> None:
        """Add a point that stays to the result; the record that has taken its place, if there is one."""
        stored = backup if self.dry_run else kept.made.get(backup.backup_id, backup)
        self.result.kept.add(stored, kept.reasons.get(backup.backup_id, ()), facts)

    def _remove(
        self,
        vm: VMName,
        points: Sequence[Backup],
        unwanted: Sequence[Backup],
        blobs: BlobsOfRemoved,
        kept: KeptPoints,
    ) -> None:
        if unwanted:
            removed = children_first(unwanted)
            remove_records(self.repository, removed, blobs)
            self.delete_external_of(removed)
        gone = {backup.backup_id for backup in unwanted}
        keep = [backup for backup in (*points, *kept.made.values()) if backup.backup_id not in gone]
        if not keep:
            proofs.remove_of(self.repository.store, vm.id)
        findings.remove_of_lost_records(self.repository.store, vm.id, points, keep)

    def drop_streams(self, removed: Sequence[Backup], used: Set[str]) -> None:
        """Remove the streams of points whose records are gone; the blobs of those in `used` stay."""
        for backup in removed:
            for stream in backup.streams:
                self.repository.drop_stream(
                    stream.disk_id, stream.stream_id, keep_blob=stream.stream_id in used
                )
        self.delete_external_of(removed)

    def delete_external_of(self, removed: Sequence[Backup]) -> None:
        """Delete the external data of removed points; tell what is left."""
        for backup in removed:
            for stream in backup.streams:
                if stream.external is not None:
                    self._delete_external(backup, stream)

    def _tell_removed(self) -> None:
        if self.result.removed and not self.dry_run:
            ids = ", ".join(backup.backup_id for backup in self.result.removed)
            self.notify(f"removed {counted(len(self.result.removed), 'point')} before that: {ids}")

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

    def of_unreferenced(self, grace: timedelta, only: Sequence[VMName] | None = None) -> None:
        """Remove unreferenced objects that are older than `grace`; a failure is in the result.

        `only` limits this to the objects that backups of these VMs left.
        """
        try:
            limit = self._oldest_unreferenced(grace)
            if only is None:
                self._of_all_unreferenced(limit)
                self._of_dead_uploads(limit)
            for vm in only or ():
                self._of_unreferenced_of(vm, limit)
        except Interrupted:
            self._tell_removed()
            raise
        except PitrError as error:
            self.result.failed.append(FailedRemoval(None, error))

    def _of_dead_uploads(self, limit: datetime) -> None:
        try:
            dead = unreferenced.dead_uploads(self.repository, limit)
            if not self.dry_run:
                unreferenced.end_uploads(self.repository, dead)
        except ObjectStoreError as error:
            # The key need not be allowed to do that, and they do no harm.
            self.notify(f"uploads that ended early stay in the bucket: {error.message}")
        else:
            self.result.unreferenced += [upload.name for upload in dead]

    def _oldest_unreferenced(self, grace: timedelta) -> datetime:
        """Return the time before which unreferenced objects are not of a running backup, as far as its age tells."""
        repository = self.repository
        if not repository.removes_later:
            return times.now() - grace
        # Another host gives up a backup before it takes so long. It holds no lock here.
        now = times.now() if self.dry_run else tombstones.store_time(repository.store)
        return now - max(grace, repository.grace)

    def of_old_notes(self) -> None:
        """Remove small objects that have had their time; a failure is in the result."""
        try:
            if not self.dry_run:
                small_objects.remove_old_notes(self.repository)
        except Interrupted:
            raise
        except PitrError as error:
            self.result.failed.append(FailedRemoval(None, error))

    def _of_all_unreferenced(self, limit: datetime) -> None:
        repository = self.repository
        with ExitStack() as stack:
            try:
                if not self.dry_run:
                    stack.enter_context(repository.collecting())
                # Before the records are read: what a run commits after this moment is newer than `limit`.
                limit = repository.before_all_writers(limit)
            except RepositoryError as error:
                # A dry run also works on a read-only repository.
                if not self.dry_run:
                    raise
                self.notify(f"skipped the search for unreferenced objects: {error.message}")
                return
            except BusyError as error:
                self.notify(f"unreferenced objects stay until the next run: {error.message}")
                return
            catalog, unreadable = repository.completed_again()
            if unreadable:
                self.notify(f"unreferenced objects stay: cannot read a record: {unreadable[0]}")
            elif contents.is_empty(catalog):
                self.notify("unreferenced objects stay: the repository holds no record at all")
            else:
                self._remove_unreferenced(unreferenced.of_all(repository, catalog, limit))
                if not self.dry_run:
                    stack.enter_context(configurations.removing(repository.path))
                    # What was committed until now may refer to one.
                    catalog, unreadable = repository.completed_again()
                if not unreadable:
                    found = list(small_objects.unreferenced_configurations(repository, catalog, limit))
                    self._count_unreferenced(found)
                    if not self.dry_run:
                        small_objects.remove_unused(repository, found)

    def _of_unreferenced_of(self, vm: VMName, limit: datetime) -> None:
        repository = self.repository
        with ExitStack() as stack:
            try:
                if not self.dry_run:
                    stack.enter_context(repository.lock_vm(vm))
            except BusyError:
                # The result names it already, or a backup has begun meanwhile.
                return
            catalog, unreadable = repository.completed_again(vm.id)
            if unreadable:
                self.notify(
                    f"unreferenced objects of VM {vm.name} stay: cannot read a record: {unreadable[0]}"
                )
                return
            self._remove_unreferenced(unreferenced.of_vm(repository, catalog, vm.id, limit))

    def _count_unreferenced(self, found: Iterable[str]) -> None:
        for name in found:
            if protected_until(self.repository, name) is not None:
                # A later run removes it.
                continue
            self.result.unreferenced.append(name)
            self.result.freed_bytes += stored_size(self.repository, name)

    def _remove_unreferenced(self, found: Iterable[str]) -> None:
        for name in found:
            self._count_unreferenced([name])
            if not self.dry_run:
                self.repository.store.delete(name)


def children_first(backups: Sequence[Backup]) -> list[Backup]:
    """Return the backups, each before the backup it is based on, whatever their times say."""
    by_id = {backup.backup_id: backup for backup in backups}
    parents = parents_of(backups)
    depths: dict[str, int] = {}
    for backup in backups:
        path = [backup]
        seen = {backup.backup_id}
        while (
            (parent := parents[path[-1].backup_id]) in by_id and parent not in depths and parent not in seen
        ):
            seen.add(parent)
            path.append(by_id[parent])
        depth = depths.get(parents[path[-1].backup_id] or "", 0)
        for number, each in enumerate(reversed(path), depth + 1):
            depths.setdefault(each.backup_id, number)
    return sorted(backups, key=lambda backup: -depths[backup.backup_id])


def _is_stored(repository: Repository, backup: Backup) -> bool:
    return stored_size(repository, names.record(backup.vm.id, backup.point, backup.backup_id)) > 0
