# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify the repository: compare the stored data with its digests. pitr changes nothing; missing data is damage.

The quick level checks records, names, sizes, indexes and parent links. The full level also reads every byte of every
blob, decompresses each frame and compares its digest. Damage that was found earlier stays known until a check reads the
same bytes again and finds them good.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from itertools import groupby

from pitr import times
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.errors import NoFittingIdentity, RepositoryError
from pitr.jobs import known_damage, proofs
from pitr.jobs.verify.ahead import read_ahead
from pitr.jobs.verify.blob_check import HEAD, check_blob, check_digest, check_head
from pitr.jobs.verify.chain_links import linked_streams
from pitr.jobs.verify.checked_ids import CheckedIds
from pitr.jobs.verify.index_check import checked_index, is_opened
from pitr.jobs.verify.looked import Looked, collecting
from pitr.jobs.verify.scope import Scope
from pitr.jobs.verify.verified import CheckVMs, Level, ListedVM, Verified, VMChecked
from pitr.model import Backup, Stream
from pitr.reporting import Notify, Progress
from pitr.repository import Repository, configurations, findings, names, removed_points
from pitr.repository.catalog import totals
from pitr.repository.catalog.catalog import Known
from pitr.repository.damage import CatalogDiffers, Damage, StoredDamage
from pitr.repository.findings import StoredFinding
from pitr.repository.index import OWN, IndexRow
from pitr.repository.layers import blobs_of_others
from pitr.repository.store import ObjectStoreError
from pitr.repository.stored_index import ManyIndexes

#: How many objects of a bucket a check reads at once.
_THREADS = 16

__all__ = ["Level", "Scope", "Verified", "check_vm", "verify"]


def verify(
    repository: Repository,
    scope: Scope,
    level: Level,
    *,
    sample_percent: float | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    notify: Notify = lambda line: None,
    elsewhere: CheckVMs | None = None,
) -> Verified:
    """Verify everything in `scope`. `sample_percent` reads only that part of the frames, a new random choice each time.

    A quick check of all VMs is done `elsewhere`, if that is given. Returns damage as a result and does not raise it;
    stores it as findings, or tells `notify` why it cannot. Raises BusyError while points are being removed.
    """
    with ExitStack() as stack:
        indexes = stack.enter_context(ManyIndexes(repository))
        run = _Verification(repository, level, sample_percent, workers, progress, indexes)
        # An object that is removed during the check would look lost.
        for vm in scope.vms(repository):
            stack.enter_context(repository.reading_vm(vm))
        try:
            run.verify(scope, elsewhere if level == "quick" else None)
        finally:
            # Also after an interrupt: what was found counts.
            run.remember(scope, notify)
    return run.result


def check_vm(repository: Repository, vm: ListedVM, watched: Set[str | None], progress: Progress) -> VMChecked:
    """Check one VM at the quick level for a process that holds its lock; store nothing. Raises what `progress` does."""
    with ManyIndexes(repository) as indexes:
        run = _Verification(repository, "quick", None, 1, progress, indexes)
        return run.check_vm(vm, watched)


class _Verification:
    def __init__(
        self,
        repository: Repository,
        level: Level,
        sample_percent: float | None,
        workers: int,
        progress: Progress | None,
        indexes: ManyIndexes,
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
        self._checked = CheckedIds()
        self._used: dict[str, tuple[Backup, Stream]] = {}
        self._unreadable: set[str] = set()
        self._configurations_read: set[str] = set()
        self._indexes = indexes
        # A folder is read as fast by one thread.
        self._threads = _THREADS if repository.path != repository.location else 1
        self._read: dict[str, set[str]] = defaultdict(set)
        self._spread: frozenset[str] = frozenset()
        self.result = Verified(level if sample_percent is None else "sample")

    def verify(self, scope: Scope, elsewhere: CheckVMs | None) -> None:
        """Check records, then streams, one VM after the other, and collect the result."""
        self._spread = scope.spread
        self._checked.watched = {
            watched for finding in self._known(scope) for watched in (finding.backup_id, finding.stream_id)
        }
        if scope.backup is not None:
            self._part(self._ancestry(scope.backup), scope)
        else:
            if scope.vm_id is None and scope.has_all_streams:
                self._total = sum(each.stored_bytes for each in totals.of_vms(self._catalog, times.now()))
            vms = self._by_vm(scope.vm_id)
            if elsewhere is not None and scope == Scope():
                self._add_all(elsewhere(vms, self._checked.watched), scope)
            for vm_id, listed in vms:
                self._part(self._records(vm_id, listed), scope)
        used = self._wanted(self._blobs_of_parts(all_vms=scope.vm_id is None and scope.backup is None), scope)
        self._total += sum(stream.stored_bytes for _, stream in used)
        self.result.streams += len(used)
        for backup, stream in used:
            self.result.unopened += not is_opened(stream)
            try:
                self._blob_of_part(backup, stream)
            except NoFittingIdentity:
                self._miss(stream)

    def _add_all(self, parts: Iterable[tuple[ListedVM, VMChecked | None]], scope: Scope) -> None:
        """Add what was found elsewhere; check what was not checked there."""
        for vm, part in parts:
            if part is None:
                self._part(self._records(*vm), scope)
                continue
            self.result.add(part.result)
            self._checked.add(part.checked)
            for vm_id, found in part.found.items():
                self._found[vm_id] += found
            self._used = {**part.used, **self._used}
            self._unreadable |= part.unreadable
            self._advance(part.stored_bytes)

    def check_vm(self, vm: ListedVM, watched: Set[str | None]) -> VMChecked:
        """Check a VM for `_add_all` of another process."""
        self._checked.watched = set(watched)
        self._part(self._records(*vm), Scope())
        # As a plain dictionary: the other process gets a copy.
        found = dict(self._found)
        return VMChecked(self.result, self._checked, found, self._used, self._unreadable, self._done)

    def _part(self, backups: list[Backup], scope: Scope) -> None:
        self._configurations(backups)
        streams = self._wanted(self._streams(backups), scope)
        if scope.vm_id is not None or scope.backup is not None or not scope.has_all_streams:
            self._total += sum(self._own_bytes(stream) for _, stream in streams)
        self.result.points += len(backups)
        self.result.streams += len(streams)
        looks = read_ahead(self._look, streams, 1 if self._whole else self._threads)
        for link, looked in zip(streams, looks, strict=True):
            self._add_look(*link, looked)

    def _wanted(self, links: list[tuple[Backup, Stream]], scope: Scope) -> list[tuple[Backup, Stream]]:
        return [link for link in links if scope.has(link[1])]

    def _by_vm(self, vm_id: str | None) -> Iterator[tuple[str, set[str]]]:
        """Yield each VM (or the one with this id) with the names of its records in the store; hold those of one VM."""
        if vm_id is not None:
            yield vm_id, set(self._repository.store.list(names.records_of(vm_id)))
            return
        done: set[str] = set()
        for each, listed in groupby(
            self._repository.store.list(names.records_of(None)), lambda name: name.split("/")[1]
        ):
            if each in done:
                # The store lists names in no order. The points of the VM are checked.
                hidden = removed_points.record_names(self._repository, each)
                self._unknown_records(set(listed) - self._catalog.known(each).keys() - hidden)
                continue
            done.add(each)
            yield each, set(listed)
        for each in sorted(self._catalog.vm_ids() - done):
            yield each, set()

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

    def _records(self, vm_id: str, listed: Set[str]) -> list[Backup]:
        """Return the backups whose records are readable; add damage for the others."""
        known = self._catalog.known(vm_id)
        backups: list[Backup] = []
        read = read_ahead(self._known_record, known.values(), self._threads)
        for record, found in zip(known.values(), read, strict=True):
            if isinstance(found, Backup):
                backups.append(found)
                self._checked.note(self._checked.records, record.backup_id)
            else:
                self._unreadable.add(record.backup_id)
                self._add_record(found.damage, record.name)
        self._compare_with_catalog(backups, vm_id)
        self._unknown_records(listed - known.keys() - removed_points.record_names(self._repository, vm_id))
        return backups

    def _known_record(self, known: Known) -> Backup | StoredDamage:
        try:
            return self._repository.read_known(known)
        except StoredDamage as error:
            return error

    def _unknown_records(self, unknown: Set[str]) -> None:
        """Read records that the catalog does not know, because they were unreadable when it was updated."""
        for name in sorted(unknown):
            try:
                self._repository.read_record(name)
            except StoredDamage as error:
                self._add_record(error.damage, name)
            except ObjectStoreError:
                # A store that does not answer says nothing about its objects.
                raise
            except RepositoryError as error:
                self._add_record(Damage(None, None, None, "corrupt", "record", error.message), name)

    def _compare_with_catalog(self, backups: Sequence[Backup], vm_id: str) -> None:
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
        for backup in backups:
            digest = backup.configuration.digest if backup.configuration is not None else None
            if digest is not None and digest not in self._configurations_read:
                self._configurations_read.add(digest)
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
                chain.append(self._repository.record_of(stand_in.backup_id if stand_in else backup_id))
                self._checked.note(self._checked.records, chain[-1].backup_id)
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
        streams, whole = linked_streams(self._repository, backups, self._add)
        for stream_id in whole:
            self._checked.note(self._checked.chains, stream_id)
        for backup, stream in list(streams.values()):
            for used in blobs_of_others(stream):
                # It may be a stream of another VM. Otherwise its record is gone while others use its frames.
                if used.stream_id not in streams:
                    self._used.setdefault(used.stream_id, (backup, used))
        return list(streams.values())

    def _blobs_of_parts(self, *, all_vms: bool) -> list[tuple[Backup, Stream]]:
        """Return the blobs that streams use, and that belong to none of the streams that are checked."""
        links = list(self._used.values())
        if all_vms:
            owners = {stream_id: self._catalog.owner_of(stream_id) for stream_id in self._used}
            links = [
                (backup, stream)
                for backup, stream in links
                if (owner := owners[stream.stream_id]) is None or owner.backup_id in self._unreadable
            ]
        return links

    def _add(self, error: StoredDamage, backup: Backup) -> None:
        lost = known_damage.with_points_lost(self._catalog, error.damage)
        if not isinstance(error, CatalogDiffers):
            self._found[backup.vm.id].append(lost)
        self.result.damage.append(lost)

    def _look(self, link: tuple[Backup, Stream]) -> Looked | None:
        """Check an index and, at the quick level, the head of the blob. Any number of threads may do so.

        Return None if no identity opens them.
        """
        backup, stream = link
        try:
            looked = Looked(
                checked_index(self._repository, self._indexes, backup, stream, with_rows=self._reads(stream)),
                stream.blob is None or self._repository.is_here(stream),
            )
            if stream.blob is not None and looked.here and not self._whole:
                with (
                    collecting(looked.blob, backup, stream),
                    self._repository.open_blob(backup, stream, head=HEAD) as blob,
                ):
                    if is_opened(stream):
                        check_head(backup, stream, blob)
        except NoFittingIdentity:
            return None
        return looked

    def _add_look(self, backup: Backup, stream: Stream, looked: Looked | None) -> None:
        self.result.unopened += not is_opened(stream)
        try:
            if looked is not None:
                self._stream(backup, stream, looked)
                return
        except NoFittingIdentity:
            pass
        self._miss(stream)

    def _miss(self, stream: Stream) -> None:
        """Count a stream whose record is opened, and that uses an older blob which is sealed to others."""
        self.result.missed += 1
        self._advance(stream.stored_bytes)

    def _stream(self, backup: Backup, stream: Stream, looked: Looked) -> None:
        """Add what was found of a stream; at the full level, read its blob."""
        self._checked.note(self._checked.indexes, stream.stream_id)
        self.result.damage += looked.index.harmless
        found = [*looked.index.damage, *looked.blob]
        if stream.blob is not None and not looked.here:
            self.result.external += 1
        elif stream.blob is not None:
            # From here on, a finding about the blob's size is either found again or disproved.
            self._checked.note(self._checked.blobs, stream.stream_id)
            if self._reads(stream):
                with collecting(found, backup, stream):
                    found += self._whole_blob(backup, stream, looked.index.rows)
        if stream.blob is not None and (
            not self._reads(stream) or not looked.here or looked.index.rows is None
        ):
            self._advance(self._own_bytes(stream))
        for error in found:
            self._add(error, backup)

    def _whole_blob(
        self, backup: Backup, stream: Stream, rows: list[IndexRow] | None
    ) -> Sequence[StoredDamage]:
        """Read a blob. Return the damage of its frames, or raise that of the whole: StoredDamage, RepositoryError."""
        with self._repository.open_blob(backup, stream) as blob:
            if rows is None:
                # Without its index, a blob can still have the digest in its record.
                check_digest(backup, stream, blob, min(self._workers, self._threads))
                self.result.bytes += blob.size
                self._checked_whole(backup, stream)
                return ()
            if stream.parts:
                # The text of the blob of a stream of parts tells only of its own frames.
                rows = [row for row in rows if row.blob_offset is not None and row.part == OWN]
            checked = check_blob(
                backup,
                stream,
                blob,
                rows,
                sample_percent=self._sample_percent,
                workers=self._workers,
                advance=self._advance,
            )
            self.result.frames += checked.frames
            self.result.bytes += checked.bytes
            self._checked_whole(backup, stream)
            return checked.damage

    def _blob_of_part(self, backup: Backup, stream: Stream) -> None:
        """Check a blob that is known only as a part of other streams: its size, and the digest of the whole."""
        self._checked.note(self._checked.blobs, stream.stream_id)
        percent = self._sample_percent
        # Such a blob has no index that tells its frames: a sample takes it as a whole or not at all.
        whole = self._whole and (percent is None or random.uniform(0, 100) < percent)  # noqa: S311
        found: list[StoredDamage] = []
        with collecting(found, backup, stream), self._repository.open_blob(backup, stream) as blob:
            if whole:
                check_digest(backup, stream, blob, min(self._workers, self._threads))
                self.result.bytes += blob.size
                self._checked_whole(backup, stream)
        for error in found:
            self._add(error, backup)
        self._advance(stream.stored_bytes)

    def _reads(self, stream: Stream) -> bool:
        return self._whole and stream.stream_id not in self._spread

    def _own_bytes(self, stream: Stream) -> int:
        return 0 if stream.stream_id in self._spread else stream.stored_bytes

    def _checked_whole(self, backup: Backup, stream: Stream) -> None:
        if self._whole and self._sample_percent is None:
            self._checked.note(self._checked.whole_blobs, stream.stream_id)
            self._read[backup.vm.id].add(stream.stream_id)

    def _advance(self, stored_bytes: int) -> None:
        self._done += stored_bytes
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)
