# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify: compare what is stored with what was written. Nothing is changed, and what is missing is damage.

Quick: records, names, sizes, indexes, parent links. Full: also every byte of every blob, each frame decompressed
and its digest compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.errors import FormatError, RepositoryError
from pitr.jobs.verify.blob_check import BlobChecked, check_blob, check_digest, check_head
from pitr.model import Backup, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository, names
from pitr.repository.damage import Damage, StoredDamage, of_stream

Level = Literal["quick", "full"]


@dataclass(slots=True)
class Verified:
    """What was looked at (`bytes`: stored bytes read) and all damage that was found.

    `elsewhere` counts streams whose blobs were piped out: of those only record and index were looked at.
    """

    level: str
    points: int = 0
    streams: int = 0
    frames: int = 0
    bytes: int = 0
    elsewhere: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.damage


@dataclass(frozen=True, slots=True)
class Scope:
    """What to verify: one VM's points, one point with all that it needs, or (both None) everything."""

    vm_id: str | None = None
    backup: Backup | None = None


def verify(
    repository: Repository,
    scope: Scope,
    level: Level,
    *,
    sample_percent: float | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Verified:
    """Verify what `scope` names. With `sample_percent` only that part of the frames, drawn anew each time, is read."""
    run = _Verification(repository, level, sample_percent, workers, progress)
    with ExitStack() as stack:
        # What is removed while it is looked at would be taken for lost.
        for vm in _vms(repository, scope):
            stack.enter_context(repository.reading_vm(vm))
        run.verify(scope)
    return run.result


def _vms(repository: Repository, scope: Scope) -> list[VMName]:
    if scope.backup is not None:
        return [scope.backup.vm]
    return [vm for vm in repository.catalog.vms() if scope.vm_id in (None, vm.id)]


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
        self.result = Verified(level if sample_percent is None else "sample")

    def verify(self, scope: Scope) -> None:
        backups = self._records(scope)
        streams = self._streams(backups)
        self._total = sum(stream.blob.size for _, stream in streams)
        self.result.points = len(backups)
        self.result.streams = len(streams)
        for backup, stream in streams:
            self._stream(backup, stream)

    # Records

    def _records(self, scope: Scope) -> list[Backup]:
        """The readable records in scope; those that are not are damage."""
        if scope.backup is not None:
            return self._ancestry(scope.backup)
        known = self._catalog.known(scope.vm_id)
        backups: list[Backup] = []
        for record in known.values():
            try:
                backups.append(self._repository.record_of(record.backup_id).backup)
            except StoredDamage as error:
                self._add_record(error.damage)
        self._compare_with_catalog(backups, scope.vm_id)
        # A record that could not be read when the catalog took it up is known to nobody.
        for name in sorted(set(self._repository.store.list(names.records_of(scope.vm_id))) - known.keys()):
            try:
                self._repository.read_record(name)
            except StoredDamage as error:
                self._add_record(error.damage)
            except RepositoryError as error:
                self._add_record(Damage(None, None, None, "corrupt", "record", error.message))
        return backups

    def _compare_with_catalog(self, backups: Sequence[Backup], vm_id: str | None) -> None:
        said = {backup.backup_id: backup for backup in self._catalog.points(vm_id)}
        for backup in backups:
            if said.get(backup.backup_id) != backup:
                message = f"the catalog does not say of backup {backup.backup_id} what its record says"
                advice = "make it again: pitr catalog rebuild"
                self._add_record(
                    Damage(backup.backup_id, None, None, "inconsistent", "record", f"{message}; {advice}")
                )

    def _ancestry(self, backup: Backup) -> list[Backup]:
        found: list[Backup] = []
        backup_id: str | None = backup.backup_id
        while backup_id is not None and all(backup_id != known.backup_id for known in found):
            try:
                found.append(self._repository.record_of(backup_id).backup)
            except StoredDamage as error:
                self._add_record(error.damage)
                break
            backup_id = found[-1].parent_id
        return found

    def _add_record(self, damage: Damage) -> None:
        lost = self._catalog.descendants(damage.backup_id) if damage.backup_id is not None else ()
        self.result.damage.append(damage.losing(tuple(lost)))

    # Streams

    def _streams(self, backups: Sequence[Backup]) -> list[tuple[Backup, Stream]]:
        """Each stream of these backups and of those that they stand on, once, after a look at its parent."""
        found: dict[str, tuple[Backup, Stream]] = {}
        read = {backup.backup_id: backup for backup in backups}
        for backup in backups:
            for stream in backup.streams:
                try:
                    for link in self._repository.chain(backup, stream, read):
                        found.setdefault(link[1].stream_id, link)
                except StoredDamage as error:
                    # What the chain lacks is found once more with each stream that stands on it.
                    if error.damage.stream_id == stream.stream_id:
                        self._add(error)
                    found.setdefault(stream.stream_id, (backup, stream))
        return list(found.values())

    def _add(self, error: StoredDamage) -> None:
        damage = error.damage
        lost = self._catalog.dependants(damage.stream_id) if damage.stream_id is not None else ()
        self.result.damage.append(damage.losing(tuple(lost)))

    def _stream(self, backup: Backup, stream: Stream) -> None:
        try:
            with self._repository.open_index(backup, stream) as index:
                extents = index.extents()
                index.frames()
                rows = list(index.rows()) if self._whole else []
        except StoredDamage as error:
            self._add(error)
            # Without its index a blob can still be what was written, or not.
            rows = None
        except (FormatError, RepositoryError) as error:
            self._add(of_stream(backup.backup_id, stream, "corrupt", "index", error.message))
            rows = None
        else:
            said = (len(extents), extents.data_bytes, extents.zero_bytes)
            if said != (stream.extents, stream.data_bytes, stream.zero_bytes):
                self._add(
                    of_stream(
                        backup.backup_id,
                        stream,
                        "inconsistent",
                        "index",
                        "it does not sum up to what the record says",
                    )
                )
        if not self._repository.is_here(stream):
            # Not here to be looked at: nothing is said of it, and that is told.
            self.result.elsewhere += 1
            self._advance(stream.blob.size)
            return
        try:
            with self._repository.open_blob(backup, stream) as blob:
                if rows is None and self._whole:
                    check_digest(backup, stream, blob)
                    self._advance(stream.blob.size)
                elif rows is None or not self._whole:
                    check_head(backup, stream, blob)
                    self._advance(stream.blob.size)
                else:
                    self._count(
                        check_blob(
                            backup,
                            stream,
                            blob,
                            rows,
                            sample_percent=self._sample_percent,
                            workers=self._workers,
                            advance=self._advance,
                        )
                    )
        except StoredDamage as error:
            self._add(error)
        except RepositoryError as error:
            self._add(of_stream(backup.backup_id, stream, "corrupt", "blob", error.message))

    def _count(self, checked: BlobChecked) -> None:
        self.result.frames += checked.frames
        self.result.bytes += checked.bytes
        for error in checked.damage:
            self._add(error)

    def _advance(self, stored_bytes: int) -> None:
        self._done += stored_bytes
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)
