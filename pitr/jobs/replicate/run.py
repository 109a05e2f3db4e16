# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy to another repository what it lacks, VM by VM."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Final

from pitr import times
from pitr.errors import RepositoryError
from pitr.jobs.replicate import sealing, small_objects
from pitr.jobs.replicate.one_object import has_size
from pitr.jobs.replicate.one_vm import VMCopy
from pitr.jobs.replicate.outcome import Replicated, ReplicateOptions, ReplicateWatch
from pitr.jobs.replicate.pieces import pieces_of
from pitr.jobs.replicate.places import open_target
from pitr.jobs.replicate.plan import Plan, plan_of
from pitr.jobs.replicate.sizes import TargetSizes
from pitr.jobs.replicate.target_streams import HiddenStreams, NamedStreams
from pitr.jobs.replicate.team import Team
from pitr.reporting import Progress
from pitr.repository import Repository, copies, names
from pitr.repository import location as locations
from pitr.repository.copies import KnownCopy
from pitr.repository.location import Location
from pitr.repository.store import ObjectMissing

#: How often a VM is planned anew because something was removed meanwhile.
_TRIES: Final = 3


def replicate(
    source: Repository, location: Location, options: ReplicateOptions, watch: ReplicateWatch
) -> Replicated:
    """Copy what the repository at `location` lacks of the source, and make it if there is none.

    Raises UsageError if it is no copy of the source, RepositoryError, and Interrupted.
    """
    result = Replicated(locations.text(source.location), locations.text(location))
    with ExitStack() as stack:
        target = open_target(source, location, dry_run=options.dry_run, repair=options.repair)
        if target is not None:
            stack.enter_context(target)
            result.target_id = target.id
        team = stack.enter_context(Team(options.workers))
        _Replication(source, target, options, watch, team, result).run()
    return result


class _Done:
    """The bytes that are done, of those that are known so far; any thread may add some."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = self._total = 0

    def expect(self, size: int) -> None:
        """Add to the bytes to do."""
        with self._lock:
            self._total += size

    def add(self, size: int) -> None:
        """Add to the bytes that are done."""
        with self._lock:
            self._done += size
            if self._progress is not None:
                self._progress(min(self._done, self._total), self._total)


class _Replication:
    def __init__(
        self,
        source: Repository,
        target: Repository | None,
        options: ReplicateOptions,
        watch: ReplicateWatch,
        team: Team,
        result: Replicated,
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._watch = watch
        self._team = team
        self._result = result
        self._done = _Done(watch.progress)
        self._planned: set[str] = set()
        self._unopened: dict[str, int] = {}
        self._complete: dict[str, datetime] = {}

    def run(self) -> None:
        """Copy VM by VM, then the small objects beside the points."""
        vm_ids = self._vm_ids()
        if self._target is None or self._options.dry_run:
            for vm_id in vm_ids:
                self._plan_only(vm_id)
            return
        named, hidden = NamedStreams(self._target), HiddenStreams(self._target)
        for vm_id in vm_ids:
            self._copy(vm_id, self._target, named, hidden)
        self._note_copy(self._target)
        small_objects.copy_all(self._source, self._target, self._team, vm_ids, self._watch, self._result)

    def _vm_ids(self) -> Sequence[str]:
        if self._options.vms is not None:
            return [vm.id for vm in self._options.vms]
        return sorted(self._source.store.folders(names.BACKUPS))

    def _plan(self, vm_id: str) -> Plan:
        plan = plan_of(self._source, self._target, vm_id, self._options.since, self._team)
        if self._target is not None and sealing.translates(self._source, self._target):
            self._unopened[vm_id] = sealing.drop_unopened(plan)
            self._result.unopened = sum(self._unopened.values())
        return plan

    def _copy(self, vm_id: str, target: Repository, named: NamedStreams, hidden: HiddenStreams) -> None:
        if self._options.repair:
            self._repair(vm_id, target)
        behind = 0
        for _ in range(_TRIES):
            plan = self._plan(vm_id)
            self._done.expect(sum(each.backup.stored_bytes for each in plan.points))
            sizes = TargetSizes(target, self._team)
            copy = VMCopy(
                self._source,
                target,
                self._team,
                sizes,
                named,
                hidden,
                self._watch,
                self._result,
                self._done.add,
            )
            behind = copy.copy(vm_id, plan)
            if not copy.is_outdated:
                break
        self._result.behind += behind
        if not behind and plan.newest is not None:
            self._complete[vm_id] = plan.newest

    def _note_copy(self, target: Repository) -> None:
        """Note in the source what the target has, for its status."""
        if not self._complete:
            return
        place = locations.full_text(target.location)
        try:
            copies.add(self._source.store, KnownCopy(target.id, place, times.now(), self._complete))
        except RepositoryError as error:
            self._watch.notify(f"the source cannot be told how far the target is: {error.message}")

    def _repair(self, vm_id: str, target: Repository) -> None:
        from pitr.jobs.replicate.repair import VMRepair  # noqa: PLC0415 - a copy alone needs no arrays

        points = target.catalog_of_vm(vm_id).points(vm_id)
        self._done.expect(sum(backup.stored_bytes for backup in points))
        VMRepair(self._source, target, self._team, self._watch, self._result, self._done.add).repair(
            vm_id, dry_run=self._options.dry_run, workers=self._options.workers
        )

    def _plan_only(self, vm_id: str) -> None:
        if self._target is not None and self._options.repair:
            self._repair(vm_id, self._target)
        plan = self._plan(vm_id)
        for damage in plan.damage:
            self._result.note(damage)
        self._result.points += len(plan.points)
        self._result.behind += len(plan.wanted)
        for name, size in self._objects(plan):
            if name not in self._planned:
                self._planned.add(name)
                self._result.objects += 1
                self._result.bytes += size

    def _objects(self, plan: Plan) -> Iterator[tuple[str, int]]:
        """Yield the names and sizes of the objects that the target lacks."""
        for missing in plan.points:
            yield missing.name, missing.record.size
            configuration = missing.backup.configuration
            if configuration is not None:
                name = names.configuration(configuration.digest)
                if not self._has(name):
                    yield name, configuration.size
            for piece in pieces_of(missing.backup, self._source.is_here):
                if self._target is None or not has_size(self._target.store, piece):
                    yield piece.name, piece.expected.size

    def _has(self, name: str) -> bool:
        if self._target is None:
            return False
        try:
            self._target.store.size(name)
        except ObjectMissing:
            return False
        return True
