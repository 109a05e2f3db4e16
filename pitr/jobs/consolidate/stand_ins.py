# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the synthetic records that take the place of points, before the records that they replace go.

Each new record is committed whole, so an interruption loses nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from pitr.jobs.consolidate.compaction import CompactionPlan, plan_compaction
from pitr.jobs.facts import NO_FACTS, PointFacts
from pitr.jobs.known_damage import remembering
from pitr.model import Backup, Kind, Record, Stream
from pitr.repository import Repository, marks
from pitr.repository.chain import KnownLayers, resolve_chain
from pitr.repository.damage import StoredDamage
from pitr.repository.index import OWN
from pitr.repository.stream_sink import NewStream, blob_meta
from pitr.repository.virtual_full import Compaction, Moved, PartKey, store_virtual_full
from pitr.version import __version__

#: What findings of damage say found them.
CHECK = "consolidate"


@dataclass(slots=True)
class StandIns:
    """The new records by the id of the record that each replaces, oldest first, and the bytes that were copied."""

    made: dict[str, Backup] = field(default_factory=dict)
    copied_bytes: int = 0


def write_stand_ins(
    repository: Repository,
    points: Sequence[Backup],
    facts: Mapping[str, PointFacts],
    wanted: Sequence[Backup],
    going: AbstractSet[str],
    *,
    dry_run: bool = False,
) -> StandIns:
    """Write a record of parts for each of the `wanted` points, and again for those whose blobs are compacted.

    `points` are all of the VM, and `facts` what is known about them by backup id; a new record takes over the hold and
    the note. `going` has the ids of the records that are removed afterwards, those of `wanted`
    included. The caller holds the lock of the VM, and removes what the result replaces. `dry_run` stores nothing.
    Raises StoredDamage, and UsageError where a blob is stored externally.
    """
    done = StandIns()
    staying = [backup for backup in points if backup.backup_id not in going]
    # A record that others name as their parent by its own id cannot be replaced, and with a damaged one its findings
    # would go.
    fixed = {backup.parent_id for backup in staying} | {
        backup_id for backup_id, each in facts.items() if each.damaged
    }
    again = [
        backup
        for backup in staying
        if backup.kind is Kind.SYNTHETIC and backup.stands_for is not None and backup.backup_id not in fixed
    ]
    users = sorted([*wanted, *again], key=lambda backup: backup.point)
    if not users:
        return done
    streams = {stream.stream_id for backup in staying for stream in backup.streams}
    # No copy frees a blob that a point uses whose record stays as it is.
    streams |= {
        part.stream_id
        for backup in staying
        if backup not in again
        for stream in backup.streams
        for part in stream.parts
    }
    # Most of the work is to read the indexes, which the points have in common.
    known = KnownLayers()
    plan = plan_compaction(repository, users, streams, users[0].vm.id, known) if going else CompactionPlan()
    writer = _Writer(repository, facts, plan, known, dry_run)
    ids = {backup.backup_id for backup in wanted}
    for user in users:
        if user.backup_id in ids:
            writer.write(user, done)
        elif plan.concerns(user.backup_id):
            writer.rewrite(user, done)
    return done


class _Writer:
    """Writes the records of one run, oldest first."""

    def __init__(
        self,
        repository: Repository,
        facts: Mapping[str, PointFacts],
        plan: CompactionPlan,
        known: KnownLayers,
        dry_run: bool,
    ) -> None:
        self._repository = repository
        self._facts = facts
        self._plan = plan
        self._known = known
        self._dry_run = dry_run
        self._moved: dict[PartKey, Moved] = {}

    def write(self, backup: Backup, done: StandIns) -> None:
        """Write the record that takes the place of `backup`; without compaction if that meets damage."""
        try:
            self._write(backup, done, lambda disk_id: self._plan.of(backup.backup_id, disk_id))
        except StoredDamage:
            if not self._plan.concerns(backup.backup_id):
                raise
            self._write(backup, done, lambda disk_id: set())

    def rewrite(self, backup: Backup, done: StandIns) -> None:
        """Write the record again, with fewer blobs; leave it if damage is met, which is recorded."""
        try:
            self._write(backup, done, lambda disk_id: self._plan.of(backup.backup_id, disk_id))
        except StoredDamage:
            return

    def _write(self, backup: Backup, done: StandIns, copied: Callable[[str], AbstractSet[PartKey]]) -> None:
        repository = self._repository
        repository.record_of(backup.backup_id)
        backup_id = str(uuid.uuid4())
        moved: dict[PartKey, Moved] = {}
        copied_bytes: list[int] = []
        with ExitStack() as stack, remembering(repository, backup.vm.id, CHECK):
            streams = [
                self._stream(backup, stream, backup_id, copied(stream.disk_id), copied_bytes.append, stack)
                for stream in backup.streams
            ]
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
                stands_for=backup.stands_for or backup.backup_id,
            )
            if not self._dry_run:
                for stream in streams:
                    moved |= self._moved_to(new, stream, copied(stream.disk_id))
                self._take_over_marks(backup, new, stack)
                # The new record refers to the same stored configuration.
                repository.commit(Record(new, None))
            stack.pop_all()
        self._moved |= moved
        done.made[backup.backup_id] = new
        done.copied_bytes += sum(copied_bytes)

    def _take_over_marks(self, backup: Backup, new: Backup, stack: ExitStack) -> None:
        """Store the hold and the note before the record, which a rule could else remove after an interruption."""
        store = self._repository.store
        known = self._facts.get(backup.backup_id, NO_FACTS).marks
        stack.callback(marks.remove_of, store, [new])
        # The hold of a rollback ends by itself, and covers the new record, too.
        if known.hold is not None and not known.hold.by_rollback:
            marks.hold(store, new, known.hold)
        if known.note is not None:
            marks.note(store, new, known.note)

    def _stream(
        self,
        backup: Backup,
        stream: Stream,
        backup_id: str,
        copied: AbstractSet[PartKey],
        on_copied: Callable[[int], None],
        stack: ExitStack,
    ) -> Stream:
        repository = self._repository
        for owner, link in repository.chain(backup, stream, self._known.records):
            repository.check_sizes(owner, link)
        resolved = resolve_chain(repository, backup, stream, with_frames=True, known=self._known)
        stream_id = str(uuid.uuid4())
        if not self._dry_run:
            stack.callback(repository.drop_stream, stream.disk_id, stream_id)
        new = NewStream(
            stream_id, backup_id, stream.disk_id, stream.name, Kind.INCREMENTAL, None, None, stream.settings
        )
        # The blob holds a part of the disk only, as that of an incremental does.
        meta = blob_meta(
            new,
            backup.vm,
            stream.size,
            resolved.map.extents().data_bytes,
            backup.point,
            backup.checkpoint_id,
            parent_id=None,
        )
        return store_virtual_full(
            repository,
            resolved,
            stream,
            backup_id=backup_id,
            stream_id=stream_id,
            compaction=Compaction(copied, self._moved, meta, on_copied),
            dry_run=self._dry_run,
        )

    def _moved_to(self, backup: Backup, stream: Stream, copied: AbstractSet[PartKey]) -> dict[PartKey, Moved]:
        if not copied or stream.blob is None:
            return {}
        with self._repository.open_index(backup, stream) as index:
            moved = Moved(stream, index.frames(OWN))
        return dict.fromkeys(copied, moved)
