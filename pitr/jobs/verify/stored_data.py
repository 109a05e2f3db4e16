# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify the repository: compare the stored data with its digests. pitr changes nothing; missing data is damage.

The quick level checks records, names, sizes, indexes and parent links. The full level also reads every byte of every
blob, decompresses each frame and compares its digest. Damage that was found earlier stays known until a check reads the
same bytes again and finds them good.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.errors import FormatError, NoFittingIdentity, RepositoryError
from pitr.jobs import known_damage, proofs
from pitr.jobs.verify.blob_check import BlobChecked, check_blob, check_digest, check_head
from pitr.model import Backup, Stream, VMName, known_name
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, configurations, findings, names, removed_points
from pitr.repository.damage import CatalogDiffers, Damage, StoredDamage, of_stream
from pitr.repository.findings import StoredFinding
from pitr.repository.index import OWN, IndexRow
from pitr.repository.layers import blobs_of_others
from pitr.repository.store import ObjectStoreError
from pitr.repository.stored_index import check_index

Level = Literal["quick", "full"]


@dataclass(slots=True)
class Verified:
    """How much was checked (`bytes`: stored bytes read), and all damage.

    `external` counts the streams that are stored externally: pitr checked only their record and index. `unopened`
    counts those that no identity opens: pitr compared only stored digests. Of those in `missed`, it did not even that.
    """

    level: str
    points: int = 0
    streams: int = 0
    frames: int = 0
    bytes: int = 0
    external: int = 0
    unopened: int = 0
    missed: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.damage


@dataclass(frozen=True, slots=True)
class Scope:
    """What to verify: one VM's points, one point with its chains, or (both None) everything.

    With `streams` (ids), only these streams, and all records in the scope.
    """

    vm_id: str | None = None
    backup: Backup | None = None
    streams: frozenset[str] | None = None


def verify(
    repository: Repository,
    scope: Scope,
    level: Level,
    *,
    sample_percent: float | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
) -> Verified:
    """Verify everything in `scope`. `sample_percent` reads only that part of the frames, a new random choice each time.

    Returns damage as a result and does not raise it; stores it as findings, or tells `notify` why it cannot. Raises
    BusyError while points are being removed.
    """
    run = _Verification(repository, level, sample_percent, workers, progress)
    with ExitStack() as stack:
        # An object that is removed during the check would look lost.
        for vm in _vms(repository, scope):
            stack.enter_context(repository.reading_vm(vm))
        try:
            run.verify(scope)
        finally:
            # Also after an interrupt: what was found counts.
            run.remember(scope, notify)
    return run.result


def _vms(repository: Repository, scope: Scope) -> list[VMName]:
    if scope.backup is not None:
        return [scope.backup.vm]
    return [vm for vm in repository.catalog.vms() if scope.vm_id in (None, vm.id)]


@dataclass(slots=True)
class _Checked:
    """What a run has read: good records (backup ids), and by stream id chains, indexes, blobs (size), whole blobs."""

    records: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    indexes: set[str] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)
    whole_blobs: set[str] = field(default_factory=set)

    def decides(self, finding: StoredFinding) -> bool:
        """Return whether the run has read what the finding is about."""
        if finding.stream_id is None:
            return finding.backup_id in self.records
        by_size = finding.what == "blob" and finding.kind != "corrupt"
        read = {
            "parent": self.chains,
            "index": self.indexes,
            "blob": self.blobs if by_size else self.whole_blobs,
            "frame": self.whole_blobs,
        }.get(finding.what, set[str]())
        return finding.stream_id in read


class _Verification:
    def __init__(
        self,
        repository: Repository,
        level: Level,
        sample_percent: float | None,
        workers: int,
        progress: Progress | None,
    ) -> None:
        self._repository = repository
        self._catalog = repository.catalog
        self._sample_percent = sample_percent
        self._workers = workers
        self._progress = progress
        self._whole = level == "full"
        self._done = 0
        self._total = 0
        self._found: dict[str, list[Damage]] = defaultdict(list)
        self._checked = _Checked()
        self._without_index: set[str] = set()
        self._read: dict[str, set[str]] = defaultdict(set)
        self.result = Verified(level if sample_percent is None else "sample")

    def verify(self, scope: Scope) -> None:
        """Check records, then streams, and collect the result."""
        backups = self._records(scope)
        self._configurations(backups)
        streams = self._streams(backups)
        if scope.streams is not None:
            streams = [link for link in streams if link[1].stream_id in scope.streams]
        self._total = sum(stream.stored_bytes for _, stream in streams)
        self.result.points = len(backups)
        self.result.streams = len(streams)
        for backup, stream in streams:
            try:
                self._stream(backup, stream)
            except NoFittingIdentity:
                # Its record is opened, and an older blob that it uses is sealed to others.
                self.result.missed += 1
                self._advance(stream.stored_bytes)

    def remember(self, scope: Scope, notify: Notify) -> None:
        """Store what was found, clear what was disproved, and add what is known from earlier checks to the result."""
        store = self._repository.store
        known = [findings.read(store, finding) for finding in self._known(scope)]
        decided = {item.finding.name for item in known if self._checked.decides(item.finding)}
        earlier = known_damage.reconcile(self._repository, known, self.result.damage, decided, notify)
        for vm_id, found in self._found.items():
            known_damage.remember(self._repository, vm_id, "verify", found, notify)
        self.result.damage += earlier
        damaged = {damage.stream_id for damage in self.result.damage if damage.stream_id is not None}
        proofs.remember_streams(self._repository, self._read, damaged, notify)

    def _known(self, scope: Scope) -> list[StoredFinding]:
        if scope.backup is None:
            return findings.found_in(self._repository.store, scope.vm_id)
        of_vm = known_damage.losses(self._repository, scope.backup.vm.id)
        return list(
            {
                loss.finding.name: loss.finding for loss in of_vm if scope.backup.backup_id in loss.points
            }.values()
        )

    # Records

    def _records(self, scope: Scope) -> list[Backup]:
        """Return the backups whose records are readable; add damage for the others."""
        if scope.backup is not None:
            return self._ancestry(scope.backup)
        known = self._catalog.known(scope.vm_id)
        backups: list[Backup] = []
        for record in known.values():
            try:
                backups.append(self._read_record(record.backup_id))
            except StoredDamage as error:
                self._add_record(error.damage, record.name)
        self._compare_with_catalog(backups, scope.vm_id)
        # The catalog does not know records that were already unreadable when it was updated.
        stored = set(self._repository.store.list(names.records_of(scope.vm_id)))
        hidden = removed_points.record_names(self._repository, scope.vm_id)
        for name in sorted(stored - known.keys() - hidden):
            try:
                self._repository.read_record(name)
            except StoredDamage as error:
                self._add_record(error.damage, name)
            except ObjectStoreError:
                # A store that does not answer says nothing about its objects.
                raise
            except RepositoryError as error:
                self._add_record(Damage(None, None, None, "corrupt", "record", error.message), name)
        return backups

    def _read_record(self, backup_id: str) -> Backup:
        backup = self._repository.record_of(backup_id)
        self._checked.records.add(backup_id)
        return backup

    def _compare_with_catalog(self, backups: Sequence[Backup], vm_id: str | None) -> None:
        in_catalog = {backup.backup_id: backup for backup in self._catalog.points(vm_id)}
        for backup in backups:
            if in_catalog.get(backup.backup_id) != backup:
                message = f"the catalog differs from the record of backup {backup.backup_id}"
                advice = "rebuild the catalog with 'pitr catalog rebuild'"
                # No finding: the stored data may be good.
                self.result.damage.append(
                    self._losing(
                        Damage(backup.backup_id, None, None, "inconsistent", "record", f"{message}; {advice}")
                    )
                )

    def _configurations(self, backups: Sequence[Backup]) -> None:
        """Read each configuration once. A damaged one is no finding: it loses no disk."""
        read: set[str] = set()
        for backup in backups:
            if backup.configuration is not None and backup.configuration.digest not in read:
                read.add(backup.configuration.digest)
                try:
                    configurations.check(self._repository.store, backup)
                except StoredDamage as error:
                    self.result.damage.append(error.damage)

    def _ancestry(self, backup: Backup) -> list[Backup]:
        chain: list[Backup] = []
        backup_id: str | None = backup.backup_id
        while backup_id is not None and all(backup_id != known.backup_id for known in chain):
            try:
                stand_in = (
                    None if self._catalog.known_record(backup_id) else self._catalog.stand_in(backup_id)
                )
                chain.append(self._read_record(stand_in.backup_id if stand_in else backup_id))
            except StoredDamage as error:
                self._add_record(error.damage, names.records_of(backup.vm.id) + "/")
                break
            backup_id = chain[-1].parent_id
        return chain

    def _add_record(self, damage: Damage, name: str) -> None:
        lost = self._losing(damage)
        self._found[name.split("/")[1]].append(lost)
        self.result.damage.append(lost)

    def _losing(self, damage: Damage) -> Damage:
        lost = self._catalog.descendants(damage.backup_id) if damage.backup_id is not None else ()
        return damage.losing(tuple(lost))

    # Streams

    def _streams(self, backups: Sequence[Backup]) -> list[tuple[Backup, Stream]]:
        """Return each stream of these backups and of those they are based on, once; check the parent links."""
        streams: dict[str, tuple[Backup, Stream]] = {}
        read = {backup.backup_id: backup for backup in backups}
        for backup in backups:
            for stream in backup.streams:
                try:
                    chain = self._repository.chain(backup, stream, read)
                    self._checked.chains.add(stream.stream_id)
                    for link in chain:
                        streams.setdefault(link[1].stream_id, link)
                except StoredDamage as error:
                    # The same damage appears for each stream that is based on this one: report it once.
                    if error.damage.stream_id == stream.stream_id:
                        self._add(error, backup)
                    streams.setdefault(stream.stream_id, (backup, stream))
        for backup, stream in list(streams.values()):
            for used in blobs_of_others(stream):
                # The record of a stream may be gone while others use its frames.
                if streams.setdefault(used.stream_id, (backup, used)) == (backup, used):
                    self._without_index.add(used.stream_id)
        return list(streams.values())

    def _add(self, error: StoredDamage, backup: Backup) -> None:
        lost = known_damage.with_points_lost(self._catalog, error.damage)
        if not isinstance(error, CatalogDiffers):
            self._found[backup.vm.id].append(lost)
        self.result.damage.append(lost)

    def _stream(self, backup: Backup, stream: Stream) -> None:
        self.result.unopened += not _is_opened(stream)
        if stream.stream_id in self._without_index:
            self._blob_of_part(backup, stream)
            return
        rows = self._index(backup, stream)
        if stream.blob is None:
            return
        if stream.parts and rows is not None:
            # The text of the blob of a stream of parts tells only of its own frames.
            rows = [row for row in rows if row.blob_offset is not None and row.part == OWN]
        if not self._repository.is_here(stream):
            self.result.external += 1
            self._advance(stream.stored_bytes)
            return
        # From here on, a finding about the blob's size is either found again or disproved.
        self._checked.blobs.add(stream.stream_id)
        try:
            with self._repository.open_blob(backup, stream) as blob:
                if rows is not None and self._whole:
                    self._count(
                        check_blob(
                            backup,
                            stream,
                            blob,
                            rows,
                            sample_percent=self._sample_percent,
                            workers=self._workers,
                            advance=self._advance,
                        ),
                        backup,
                    )
                    self._checked_whole(backup, stream)
                    return
                # Without its index, a blob can still have the digest in its record.
                if self._whole:
                    check_digest(backup, stream, blob)
                    self.result.bytes += blob.size
                elif _is_opened(stream):
                    check_head(backup, stream, blob)
                self._checked_whole(backup, stream)
                self._advance(stream.stored_bytes)
        except StoredDamage as error:
            self._add(error, backup)
        except ObjectStoreError:
            raise
        except RepositoryError as error:
            self._add(of_stream(backup.backup_id, stream, "corrupt", "blob", error.message), backup)

    def _blob_of_part(self, backup: Backup, stream: Stream) -> None:
        """Check a blob that is known only as a part of other streams: its size, and the digest of the whole."""
        self._checked.blobs.add(stream.stream_id)
        percent = self._sample_percent
        # Such a blob has no index that tells its frames: a sample takes it as a whole or not at all.
        whole = self._whole and (percent is None or random.uniform(0, 100) < percent)  # noqa: S311
        try:
            with self._repository.open_blob(backup, stream) as blob:
                if whole:
                    check_digest(backup, stream, blob)
                    self.result.bytes += blob.size
                    self._checked_whole(backup, stream)
        except StoredDamage as error:
            self._add(error, backup)
        except ObjectStoreError:
            raise
        except RepositoryError as error:
            self._add(of_stream(backup.backup_id, stream, "corrupt", "blob", error.message), backup)
        self._advance(stream.stored_bytes)

    def _checked_whole(self, backup: Backup, stream: Stream) -> None:
        if self._whole and self._sample_percent is None:
            self._checked.whole_blobs.add(stream.stream_id)
            self._read[backup.vm.id].add(stream.stream_id)

    def _index(self, backup: Backup, stream: Stream) -> list[IndexRow] | None:
        """Check the index and return its rows (for the full level); None if it is damaged."""
        self._checked.indexes.add(stream.stream_id)
        try:
            self._second_index(backup, stream)
            if not _is_opened(stream):
                check_index(self._repository, backup, stream)
                return None
            with self._repository.open_index(backup, stream) as index:
                extents = index.extents()
                index.part_numbers()
                for part in index.parts:
                    index.frames(part.number)
                rows = list(index.rows()) if self._whole else []
        except StoredDamage as error:
            self._add(error, backup)
            return None
        except ObjectStoreError:
            raise
        except (FormatError, RepositoryError) as error:
            self._add(of_stream(backup.backup_id, stream, "corrupt", "index", error.message), backup)
            return None
        sums = (len(extents), extents.data_bytes, extents.zero_bytes)
        if sums != (stream.extents, stream.data_bytes, stream.zero_bytes):
            message = "its totals do not match the record"
            self._add(of_stream(backup.backup_id, stream, "inconsistent", "index", message), backup)
        return rows

    def _second_index(self, backup: Backup, stream: Stream) -> None:
        """Check both copies of an index that is stored twice. A damaged copy loses nothing while the other is good."""
        if stream.index_copy is None:
            return
        harmed: list[StoredDamage] = []
        damaged_first = False
        for second in (False, True):
            try:
                self._checked_index_copy(backup, stream, second=second)
            except StoredDamage as error:
                harmed.append(error)
                damaged_first |= not second
        if len(harmed) == 1:
            copies = [name(stream.disk_id, stream.stream_id) for name in (names.index, names.index_copy)]
            bad, good = copies if damaged_first else copies[::-1]
            message = (
                f"{harmed[0].damage.message}; its other copy is good, and pitr reads that. "
                f"To repair it, copy {good} to {bad} in the repository"
            )
            self.result.damage.append(replace(harmed[0].damage, message=message))

    def _checked_index_copy(self, backup: Backup, stream: Stream, *, second: bool) -> None:
        check_index(self._repository, backup, stream, second=second)
        if _is_opened(stream):
            self._repository.open_index_copy(backup, stream, second=second).close()

    def _count(self, checked: BlobChecked, backup: Backup) -> None:
        self.result.frames += checked.frames
        self.result.bytes += checked.bytes
        for error in checked.damage:
            self._add(error, backup)

    def _advance(self, stored_bytes: int) -> None:
        self._done += stored_bytes
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


def _is_opened(stream: Stream) -> bool:
    """Return whether the record says what the opened data is: the repository is not sealed, or an identity opens it."""
    return known_name(stream.name) is not None
