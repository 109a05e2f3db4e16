# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the objects of the target's points, and replace the missing and damaged ones from the source.

Each replacement is compared with its record before it takes the place of the old object, in one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pitr.errors import RepositoryError
from pitr.jobs import known_damage
from pitr.jobs.replicate.one_object import Advance, Replacing, check_object, copy_object
from pitr.jobs.replicate.outcome import RepairedObject, Replicated, ReplicateWatch
from pitr.jobs.replicate.pieces import Piece, pieces_of
from pitr.jobs.replicate.team import Team
from pitr.jobs.verify.stored_data import Scope, verify
from pitr.model import Backup, VMName
from pitr.repository import Repository, canonical, configurations, findings, names
from pitr.repository.damage import Damage, StoredDamage, of_record
from pitr.repository.store import ColdObject


@dataclass(slots=True)
class VMRepair:
    """The repair of one VM's points in the target. Only the main thread uses it; the team reads and copies."""

    source: Repository
    target: Repository
    team: Team
    watch: ReplicateWatch
    result: Replicated
    advance: Advance
    _unrepaired: list[Damage] = field(default_factory=list)

    def repair(self, vm_id: str, *, dry_run: bool, workers: int) -> None:
        """Repair what can be repaired, and clear the findings that are no longer true. Raises RepositoryError."""
        with self.target.reading_vm(VMName(vm_id, vm_id)):
            backups = list(self._records(vm_id, dry_run=dry_run))
            self._objects(backups, dry_run=dry_run)
            self._configurations(backups, dry_run=dry_run)
            if not dry_run:
                self._clear(vm_id, workers)
        for damage in self._unrepaired:
            if damage not in self.result.unrepaired:
                self.result.unrepaired.append(damage)

    # Records

    def _records(self, vm_id: str, *, dry_run: bool) -> Iterator[Backup]:
        """Yield the backups whose records are good, or were replaced."""
        known = self.target.catalog_of_vm(vm_id).known(vm_id)
        listed = sorted(self.target.store.list(names.records_of(vm_id)))
        for name, read in [(name, self.team.start(self.target.read_record, name)) for name in listed]:
            try:
                backup, record = read.result()
                if name not in known or known[name].record == record:
                    yield backup
                    continue
                message = f"the record {name} was changed after it was written"
                error = of_record(backup.backup_id, "inconsistent", message)
            except StoredDamage as damaged:
                if damaged.damage.kind == "missing":
                    continue
                error = damaged
            replaced = self._replaced_record(
                name, known[name].record.digest if name in known else None, dry_run
            )
            if replaced is None:
                self._unrepaired.append(error.damage)
            else:
                self._repaired(name, error.damage, replaced[1])
                yield replaced[0]

    def _replaced_record(self, name: str, digest: str | None, dry_run: bool) -> tuple[Backup, int] | None:
        """Replace a record by the source's, if that is the one that the target's catalog remembers."""
        try:
            backup, record = self.source.read_record(name)
        except StoredDamage:
            return None
        if digest not in (None, record.digest):
            return None
        stored = self.source.store.read(name, limit=canonical.MAX_SIZE)
        if not dry_run:
            with self.target.store.replacing(name) as new:
                new.write(stored)
                new.commit()
        return backup, len(stored)

    # Blobs and indexes

    def _objects(self, backups: list[Backup], *, dry_run: bool) -> None:
        pieces = {piece.name: piece for backup in backups for piece in pieces_of(backup, self.target.is_here)}
        work = [(piece, self.team.start(self._object, piece, dry_run)) for piece in pieces.values()]
        for piece, done in work:
            try:
                damage, is_repaired = done.result()
            except ColdObject:
                self.result.cold += 1
                continue
            if damage is not None and is_repaired:
                self._repaired(piece.name, damage, piece.expected.size)
            elif damage is not None:
                catalog = self.target.catalog_of_vm(piece.backup.vm.id)
                self._unrepaired.append(known_damage.with_points_lost(catalog, damage))

    def _object(self, piece: Piece, dry_run: bool) -> tuple[Damage | None, bool]:
        """Check one object and replace it if needed. Return its damage, and whether that is repaired."""
        try:
            check_object(self.target.store, piece.name, piece, self.team, self.advance)
        except StoredDamage as error:
            return error.damage, self._replaced(piece, dry_run)
        return None, False

    def _replaced(self, piece: Piece, dry_run: bool) -> bool:
        """Replace an object by a good one of the source, or by its good twin in the target."""
        for store in (self.source.store, self.target.store):
            try:
                if dry_run:
                    check_object(store, piece.name, piece, self.team, lambda size: None)
                else:
                    target = Replacing(self.target.store)
                    copy_object(store, target, piece, self.team, lambda size: None)
            except StoredDamage:
                continue
            return True
        return False

    # Configurations

    def _configurations(self, backups: list[Backup], *, dry_run: bool) -> None:
        checked: set[str] = set()
        for backup in backups:
            expected = backup.configuration
            if expected is None or expected.digest in checked:
                continue
            checked.add(expected.digest)
            try:
                configurations.check(self.target.store, backup)
            except StoredDamage as error:
                try:
                    stored = configurations.read_stored(self.source.store, backup)
                except StoredDamage:
                    self._unrepaired.append(error.damage)
                    continue
                if stored is not None and not dry_run:
                    configurations.add(self.target.store, stored)
                self._repaired(names.configuration(expected.digest), error.damage, expected.size)

    def _repaired(self, name: str, damage: Damage, size: int) -> None:
        self.result.repaired.append(RepairedObject(name, damage.kind, size))

    # Findings

    def _clear(self, vm_id: str, workers: int) -> None:
        """Let a check clear what it disproves; what it does not disprove is still damaged."""
        known = findings.found_in(self.target.store, vm_id)
        if not known:
            return
        streams = frozenset(finding.stream_id for finding in known if finding.stream_id is not None)
        try:
            checked = verify(
                self.target,
                Scope(vm_id=vm_id, streams=streams),
                "full",
                workers=workers,
                notify=self.watch.notify,
            )
        except RepositoryError as error:
            self.watch.notify(f"earlier findings of damage could not be checked: {error.message}")
            return
        named = {(damage.stream_id, damage.what) for damage in self._unrepaired}
        self._unrepaired += [
            damage for damage in checked.damage if (damage.stream_id, damage.what) not in named
        ]
