# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy the points of one VM: the objects of several points at once, the records one after the other, oldest first.

A record is stored when all its objects are in the target, and the points that it is based on. So each point of the
target is whole at any moment, and an interruption costs only objects that are half copied.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Final

from pitr import times
from pitr.errors import BusyError, NoFittingIdentity, RepositoryError
from pitr.jobs import known_damage
from pitr.jobs.replicate.one_object import (
    Advance,
    Place,
    Replacing,
    check_object,
    copy_object,
)
from pitr.jobs.replicate.outcome import BusyVMOfTarget, Replicated, ReplicateWatch
from pitr.jobs.replicate.pieces import Piece, pieces_of
from pitr.jobs.replicate.plan import Missing, Plan
from pitr.jobs.replicate.sealing import sealed_again, translates
from pitr.jobs.replicate.sizes import TargetSizes
from pitr.jobs.replicate.target_streams import HiddenStreams, NamedStreams
from pitr.jobs.replicate.team import Team
from pitr.model import Backup, VMName
from pitr.repository import Repository, configurations, lock, names
from pitr.repository.cached_catalog import StoredRecord
from pitr.repository.damage import Damage, StoredDamage
from pitr.repository.store import Batch, ColdObject, ObjectExists, ObjectMissing

_log = logging.getLogger(__name__)

#: How many points are in a group. The objects of two groups are in work at once, in the order of the points.
_GROUP: Final = 16
_GROUP_BYTES: Final = 256 << 20
#: How long to wait while the target removes points of the VM.
_PATIENCE_S: Final = 60.0
CHECK: Final = "replicate"

Has = Callable[[Piece], bool | None]
"""Tells whether the target's object has its size; None if there is none."""


@dataclass(frozen=True, slots=True)
class _Copied:
    """What the copy of one object did: 0 or 1 objects, its bytes, and damage that a twin made good."""

    objects: int = 0
    bytes: int = 0
    damage: tuple[StoredDamage, ...] = ()


@dataclass(frozen=True, slots=True)
class _InWork:
    missing: Missing
    copies: list[tuple[Piece, Future[_Copied]]]
    note: Future[None]


@dataclass(frozen=True, slots=True)
class _Group:
    """Points whose new objects get their names together, before their records."""

    batch: Batch
    works: list[_InWork]


def _grouped(points: Sequence[Missing]) -> Iterator[list[Missing]]:
    """Cut the points into groups: an interruption must not cost much."""
    group: list[Missing] = []
    size = 0
    for point in points:
        group.append(point)
        size += point.backup.stored_bytes
        if len(group) >= _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _noted(batch: Batch, name: str) -> None:
    """Note that a record is about to be stored."""
    with suppress(ObjectExists):
        batch.create(name, b"")


@dataclass(slots=True)
class VMCopy:
    """The copy of one VM's points. Only the main thread uses it; the team copies objects."""

    source: Repository
    target: Repository
    team: Team
    sizes: TargetSizes
    named: NamedStreams
    hidden: HiddenStreams
    watch: ReplicateWatch
    result: Replicated
    advance: Advance
    #: Whether something was removed meanwhile, in the source or in the target, so that a new plan may do more.
    is_outdated: bool = False
    _started: dict[str, Future[_Copied]] = field(default_factory=dict)
    _counted: set[str] = field(default_factory=set)
    _lost: set[str] = field(default_factory=set)
    _stored: dict[str, StoredRecord] = field(default_factory=dict)
    _found: list[Damage] = field(default_factory=list)
    #: Digests of configurations that records of the target refer to, which this copy stored.
    _configured: set[str] = field(default_factory=set)

    def copy(self, vm_id: str, plan: Plan) -> int:
        """Copy the points of the plan; return how many the target lacks after it.

        The result gets what was copied, and damage. Raises RepositoryError.
        """
        for damage in plan.damage:
            self._found.append(damage)
            self.result.note(damage)
        stored: set[str] = set()
        try:
            with lock.waiting(_PATIENCE_S), closing(self._groups(plan)) as groups:
                for group in groups:
                    self._finish_group(group, stored)
        except BusyError as error:
            vm = plan.points[0].backup.vm if plan.points else VMName(vm_id, vm_id)
            self.result.busy.append(BusyVMOfTarget(vm, error.message))
        finally:
            self._add_to_catalog(vm_id)
            self.result.points += len(stored)
            if self._found:
                known_damage.remember(self.source, vm_id, CHECK, self._found, self.watch.notify)
        return len(plan.wanted - stored)

    def _groups(self, plan: Plan) -> Generator[_Group, None, None]:
        """Start the copies of the points in groups, and yield them in order. The copies of the next one go on."""
        with ExitStack() as stack:
            window: deque[_Group] = deque()
            for points in _grouped(plan.points):
                batch = stack.enter_context(self.target.store.batch())
                has = self.sizes.ask(self._new_pieces(points))
                window.append(_Group(batch, [self._begun(missing, batch, has) for missing in points]))
                if len(window) > 1:
                    yield window.popleft()
            yield from window

    def _new_pieces(self, points: Sequence[Missing]) -> Iterator[Piece]:
        for missing in points:
            for piece in pieces_of(missing.backup, self.source.is_here):
                if piece.name not in self._started:
                    yield piece

    def _begun(self, missing: Missing, batch: Batch, has: Has) -> _InWork:
        backup = missing.backup
        copies = []
        for piece in pieces_of(backup, self.source.is_here):
            if piece.name not in self._started:
                is_named = piece.is_blob and self.named.has(piece.stream.disk_id, piece.stream.stream_id)
                self._started[piece.name] = self.team.start(self._copy_object, piece, is_named, batch, has)
            copies.append((piece, self._started[piece.name]))
        note = names.commit(times.now(), backup.vm.id, backup.point, backup.backup_id)
        return _InWork(missing, copies, self.team.start(_noted, batch, note))

    def _copy_object(self, piece: Piece, is_named: bool, batch: Batch, has: Has) -> _Copied:
        """Let the target have an object that is whole."""
        store = self.target.store
        present = has(piece)
        if present and (is_named or (self._is_recent(piece) and self._is_good(piece))):
            return _Copied()
        # What is there is damaged, or too old to rely on.
        place: Place = batch if present is None else Replacing(store)
        try:
            damage = copy_object(self.source.store, place, piece, self.team, self.advance)
        except ObjectExists:
            # Another process copied it meanwhile.
            if not self._is_good(piece):
                raise
            return _Copied()
        return _Copied(1, piece.expected.size, tuple(damage))

    def _is_recent(self, piece: Piece) -> bool:
        """Return whether no other host may take an object without a record for one that an old run left."""
        if not self.target.removes_later:
            return True
        return times.now() - self.target.store.written(piece.name) < self.target.grace / 2

    def _is_good(self, piece: Piece) -> bool:
        """Return whether an object that no record names yet is what it should be."""
        try:
            check_object(self.target.store, piece.name, piece, self.team, lambda size: None)
        except StoredDamage:
            return False
        return True

    def _finish_group(self, group: _Group, stored: set[str]) -> None:
        """Wait for the objects of a group's points, and store the records of those that are whole, one by one."""
        whole = [work for work in group.works if self._is_whole(work)]
        group.batch.settle()
        if not whole:
            return
        path = self.target.path
        with (
            self.target.reading_vm(whole[0].missing.backup.vm),
            lock.wait_to_share(path / names.COLLECTION_LOCK, "the unreferenced objects"),
            lock.wait_to_share(path / names.CONFIGURATIONS_LOCK, "the VMs' configurations"),
        ):
            # From here on, no other process of this host removes points of the VM, or objects without a record. Other
            # hosts remove nothing before the end of the grace time.
            has = self.sizes.ask(piece for work in whole for piece, _ in work.copies)
            for work in whole:
                if self._commit(work, has):
                    stored.add(work.missing.name)
                else:
                    self._lost.add(work.missing.backup.backup_id)

    def _is_whole(self, work: _InWork) -> bool:
        """Wait for the objects of a point; return whether all are there, and no point below it is lost."""
        whole = True
        for piece, copy in work.copies:
            try:
                done = copy.result()
            except StoredDamage as error:
                whole = False
                # After a removal in the middle it is no damage.
                if self._is_in_source(work.missing):
                    self._note(error, piece)
            except ColdObject as error:
                whole = False
                self._note_cold(error, piece)
            except NoFittingIdentity:
                whole = False
                self.result.unopened += work.missing.backup.backup_id not in self._lost
                self._lost.add(work.missing.backup.backup_id)
            else:
                self._count(piece, done)
        work.note.result()
        if not whole or work.missing.backup.parent_id in self._lost:
            self._lost.add(work.missing.backup.backup_id)
            return False
        return True

    def _note_cold(self, error: ColdObject, piece: Piece) -> None:
        if piece.name not in self._counted:
            self._counted.add(piece.name)
            self.result.cold += 1
            if self.result.cold == 1:
                self.watch.notify(f"{error.message}. {error.advice}".strip())

    def _count(self, piece: Piece, done: _Copied) -> None:
        if piece.name not in self._counted:
            self._counted.add(piece.name)
            self.result.objects += done.objects
            self.result.bytes += done.bytes
            for error in done.damage:
                self._note(error, piece, twin_is_good=True)

    def _note(self, error: StoredDamage, piece: Piece, *, twin_is_good: bool = False) -> None:
        if twin_is_good:
            self.result.note(error.damage)
            return
        catalog = self.source.catalog_with_point(piece.backup.backup_id)
        damage = known_damage.with_points_lost(catalog, error.damage)
        if damage not in self._found:
            self._found.append(damage)
            self.result.note(damage)

    def _is_in_source(self, missing: Missing) -> bool:
        try:
            self.source.store.size(missing.name)
        except ObjectMissing:
            self.is_outdated = True
            return False
        return True

    def _commit(self, work: _InWork, has: Has) -> bool:
        """Store a record; return whether the target has the point now.

        `has` tells whether the target still has its objects; a removal of unreferenced ones may have come between.
        """
        missing, backup = work.missing, work.missing.backup
        stored = missing.stored
        if backup.parent_id in self._lost:
            return False
        if self.hidden.needs(backup):
            self.watch.notify(
                f"point {backup.backup_id} needs a point that was removed in the target: it is copied when that "
                "one is swept, or taken back with 'pitr undo-prune'"
            )
            return False
        if not all(has(piece) for piece, _ in work.copies) or not self._has_base(backup):
            self.is_outdated = True
            return False
        is_translated = translates(self.source, self.target)
        translated = self._translated(missing) if is_translated else (stored, self._configuration(backup))
        if translated is None:
            return False
        stored, configuration = translated
        try:
            with configurations.stored(self.target.store, self.target.path, configuration):
                self.target.store.create(missing.name, stored)
        except ObjectExists:
            return True
        self._stored[backup.backup_id] = (backup, missing.name, missing.record)
        if backup.configuration is not None:
            self._configured.add(backup.configuration.digest)
        if is_translated:
            # The target's record has other digests, and a sealed target's catalog holds no names.
            in_target, record = self.target.read_record(missing.name)
            self._stored[backup.backup_id] = (in_target, missing.name, record)
        self.named.add(backup)
        self.result.objects += 1 + (configuration is not None)
        self.result.bytes += len(stored) + len(configuration or b"")
        return True

    def _translated(self, missing: Missing) -> tuple[bytes, bytes | None] | None:
        """Return the target's record, and the bytes of its configuration to store; None if that is impossible."""
        try:
            return sealed_again(self.source, self.target, missing.backup, missing.stored)
        except NoFittingIdentity:
            self.result.unopened += 1
        except StoredDamage as error:
            # The target's record could not say where its configuration is.
            self.result.note(error.damage)
        return None

    def _has_base(self, backup: Backup) -> bool:
        """Return whether the target still has the point that this one is based on, or one that stands for it."""
        if backup.parent_id is None:
            return True
        if backup.parent_id in self._stored:
            return self._is_in_target(self._stored[backup.parent_id][1])
        catalog = self.target.catalog_of_vm(backup.vm.id)
        stand_in = catalog.stand_in(backup.parent_id)
        ids = (backup.parent_id, stand_in.backup_id if stand_in is not None else "")
        bases = [known for known in map(catalog.known_record, ids) if known is not None]
        return any(self._is_in_target(base.name) for base in bases)

    def _is_in_target(self, name: str) -> bool:
        try:
            self.target.store.size(name)
        except ObjectMissing:
            return False
        return True

    def _add_to_catalog(self, vm_id: str) -> None:
        # The records are the commits: a catalog without them adds them when it is opened again.
        with suppress(RepositoryError):
            self.target.catalog_of_vm(vm_id).add(list(self._stored.values()))

    def _configuration(self, backup: Backup) -> bytes | None:
        """Return the configuration that the target lacks. Without it, a point still has all its disks."""
        expected = backup.configuration
        if expected is None or expected.digest in self._configured:
            return None
        name = names.configuration(expected.digest)
        with suppress(ObjectMissing):
            if self.target.store.size(name) == expected.size:
                return None
        try:
            return configurations.read_stored(self.source.store, backup)
        except StoredDamage as error:
            self.result.note(error.damage)
            return None
