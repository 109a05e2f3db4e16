# SPDX-License-Identifier: GPL-2.0-or-later
"""Consolidate one point: write the map of its disks down as a synthetic backup, and remove the record that it replaces.

The new record is committed before the old one goes, so an interruption loses nothing, and the next run goes on.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pitr.jobs.facts import NO_FACTS, PointFacts, facts_of
from pitr.jobs.known_damage import damage_of, remembering
from pitr.model import Backup, Kind, Record
from pitr.repository import Repository, drills, findings, marks, names, removed_points
from pitr.repository.chain import resolve_chain
from pitr.repository.damage import StoredDamage
from pitr.repository.store import ObjectMissing
from pitr.repository.virtual_full import store_virtual_full
from pitr.version import __version__


@dataclass(frozen=True, slots=True)
class Consolidated:
    """The new points, the points that they replace, and the facts about these. No data is copied (`copied_bytes`)."""

    created: tuple[Backup, ...] = ()
    removed: tuple[Backup, ...] = ()
    facts: PointFacts = NO_FACTS
    copied_bytes: int = 0
    freed_bytes: int = 0


def consolidate(repository: Repository, backup: Backup, *, dry_run: bool = False) -> Consolidated:
    """Replace an incremental point by a synthetic one; any other point stays as it is.

    `dry_run` changes nothing and returns the same. Raises StoredDamage for a damaged point, UsageError if a disk's data
    is stored externally, and BusyError.
    """
    if backup.kind is not Kind.INCREMENTAL:
        return Consolidated()
    with ExitStack() as stack:
        if dry_run:
            stack.enter_context(repository.reading_vm(backup.vm))
        else:
            stack.enter_context(repository.removing_from_vm(backup.vm))
        facts = facts_of(repository, backup)
        for damage in damage_of(repository, facts.damage):
            # Its findings would be lost with its record.
            raise StoredDamage(damage)
        stack.enter_context(remembering(repository, backup.vm.id, "consolidate"))
        # An interrupted run leaves the new record beside the old one.
        new = repository.catalog.stand_in(backup.backup_id)
        if new is None:
            new = _written(repository, backup, stack, dry_run=dry_run)
        parts = {part.stream_id for stream in new.streams for part in stream.parts}
        kept = parts | repository.catalog.used_as_parts()
        kept |= removed_points.rows(repository).used_as_parts()
        # Hidden points free nothing before a prune sweeps them.
        freed = 0 if repository.removes_later else _freed(repository, backup, kept)
        if not dry_run:
            _remove(repository, backup, facts, new, kept)
        return Consolidated((new,), (backup,), facts, 0, freed)


def _written(repository: Repository, backup: Backup, stack: ExitStack, *, dry_run: bool) -> Backup:
    """Return the synthetic backup, committed unless `dry_run`. `stack` removes its streams if that fails."""
    repository.record_of(backup.backup_id)
    backup_id = str(uuid.uuid4())
    streams = []
    for stream in backup.streams:
        for owner, link in repository.chain(backup, stream):
            repository.check_sizes(owner, link)
        resolved = resolve_chain(repository, backup, stream)
        stream_id = str(uuid.uuid4())
        if not dry_run:
            stack.callback(repository.drop_stream, stream.disk_id, stream_id)
        streams.append(
            store_virtual_full(
                repository, resolved, stream, backup_id=backup_id, stream_id=stream_id, dry_run=dry_run
            )
        )
    new = replace(
        backup,
        backup_id=backup_id,
        kind=Kind.SYNTHETIC,
        reason=None,
        parent_id=None,
        from_checkpoint_id=None,
        streams=tuple(streams),
        duration_ms=0,
        pitr_version=__version__,
        stands_for=backup.backup_id,
    )
    if not dry_run:
        # The new record refers to the same stored configuration.
        repository.commit(Record(new, None))
    return new


def _remove(repository: Repository, backup: Backup, facts: PointFacts, new: Backup, kept: set[str]) -> None:
    """Remove a point and all that only it uses. Its hold and its note go over to `new`."""
    store = repository.store
    if facts.marks.hold is not None:
        marks.hold(store, new, facts.marks.hold)
    if facts.marks.note is not None:
        marks.note(store, new, facts.marks.note)
    if repository.removes_later:
        removed_points.hide(repository, [backup])
        return
    repository.remove([backup])
    drills.remove_of(store, [backup])
    findings.remove_of(store, [backup])
    marks.remove_of(store, [backup])
    for stream in backup.streams:
        repository.drop_stream(stream.disk_id, stream.stream_id, keep_blob=stream.stream_id in kept)


def _freed(repository: Repository, backup: Backup, kept: set[str]) -> int:
    objects = [names.record(backup.vm.id, backup.point, backup.backup_id)]
    for stream in backup.streams:
        objects.append(names.index(stream.disk_id, stream.stream_id))
        objects.append(names.index_copy(stream.disk_id, stream.stream_id))
        if stream.stream_id not in kept:
            objects.append(names.blob(stream.disk_id, stream.stream_id))
    return sum(_size(repository, name) for name in objects)


def _size(repository: Repository, name: str) -> int:
    try:
        return repository.store.size(name)
    except ObjectMissing:
        return 0
