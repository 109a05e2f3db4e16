# SPDX-License-Identifier: GPL-2.0-or-later
"""Check large blobs in ranges, which several machines read at the same time.

The frames and the text between them are checked in ranges. The digest of the whole blob can only be computed front to
back, so one of the machines reads all of it for that, which takes a tenth of the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from pitr import times
from pitr.errors import FormatError, NoFittingIdentity, RepositoryError
from pitr.jobs import known_damage, proofs
from pitr.jobs.verify.blob_check import BlobChecked, BlobRange, check_blob, check_digest
from pitr.jobs.verify.index_check import is_opened
from pitr.jobs.verify.looked import collecting
from pitr.jobs.verify.scope import Scope
from pitr.jobs.verify.stored_data import Verified
from pitr.model import Backup, Stream, VMName
from pitr.reporting import Notify, Progress
from pitr.repository import Repository
from pitr.repository.catalog import totals
from pitr.repository.catalog.totals import Totals
from pitr.repository.damage import Damage, StoredDamage
from pitr.repository.index import OWN, Frames, IndexRow

#: A range has at least so many stored bytes: each one costs a task and a look into the index.
SMALLEST: Final = 32 << 20
#: A share of small streams is worth a task with so many points, or with the bytes of a range.
_POINTS_OF_A_SHARE: Final = 20


@dataclass(frozen=True, slots=True)
class BigBlob:
    """A blob that is checked in ranges."""

    backup: Backup
    stream: Stream
    ranges: tuple[BlobRange, ...]


@dataclass(frozen=True, slots=True)
class Division:
    """A check by several places: the blobs to check in ranges, and the number of shares of all other streams."""

    blobs: tuple[BigBlob, ...]
    shares: int


@dataclass(frozen=True, slots=True)
class RangeChecked:
    """What was read of a blob (frames; stored bytes), and its damage."""

    frames: int = 0
    bytes: int = 0
    damage: tuple[Damage, ...] = ()


@contextmanager
def divided(repository: Repository, scope: Scope, places: int) -> Iterator[Division]:
    """Divide a check between so many places. The points of blobs in ranges stay protected from removal.

    Raises BusyError while points are being removed.
    """
    with ExitStack() as stack:
        found = {}
        of_vms = _of_vms(repository, scope)
        stored_bytes = sum(each.stored_bytes for each in of_vms)
        least = max(2 * SMALLEST, stored_bytes // (2 * places))
        for vm in (each.vm for each in of_vms if each.stored_bytes >= least):
            stack.enter_context(repository.reading_vm(vm))
            for backup, stream in _streams(repository, scope, vm):
                if stream.blob is not None and stream.own_blob.size >= least and is_opened(stream):
                    found[stream.stream_id] = backup, stream
        tried = [_in_ranges(repository, backup, stream, places) for backup, stream in found.values()]
        blobs = tuple(blob for blob in tried if blob is not None)
        others = stored_bytes - sum(blob.stream.own_blob.size for blob in blobs)
        points = sum(each.points for each in of_vms)
        yield Division(blobs, max(1, min(places, max(others // SMALLEST, points // _POINTS_OF_A_SHARE))))


def _of_vms(repository: Repository, scope: Scope) -> list[Totals]:
    vm_id = scope.backup.vm.id if scope.backup is not None else scope.vm_id
    return [each for each in totals.of_vms(repository.catalog, times.now()) if vm_id in (None, each.vm.id)]


def _streams(repository: Repository, scope: Scope, vm: VMName) -> Iterator[tuple[Backup, Stream]]:
    """Yield the streams whose blobs a check in this scope reads. Damage is found by the check, not here."""
    if scope.backup is None:
        for backup in repository.catalog_of_vm(vm.id).points(vm.id):
            yield from ((backup, stream) for stream in backup.streams if repository.is_here(stream))
        return
    for stream in scope.backup.streams:
        try:
            chain = repository.chain(scope.backup, stream)
        except StoredDamage:
            continue
        yield from ((backup, link) for backup, link in chain if repository.is_here(link))


def _in_ranges(repository: Repository, backup: Backup, stream: Stream, places: int) -> BigBlob | None:
    """Divide a blob into ranges for so many places; None if its index is damaged."""
    try:
        with repository.open_index(backup, stream) as index:
            frames = index.frames(OWN)
    except (RepositoryError, FormatError, StoredDamage, NoFittingIdentity):
        return None
    return BigBlob(backup, stream, tuple(ranges(frames, stream.own_blob.size, stream.size, places)))


def ranges(frames: Frames, blob_size: int, disk_size: int, places: int) -> Iterator[BlobRange]:
    """Yield the ranges of a blob: large ones first, and small ones last, so that all places end together."""
    ends = frames.blob_offset + frames.blob_length
    wanted: list[int] = []
    at = 0
    while blob_size - at >= 2 * SMALLEST:
        at += max(SMALLEST, (blob_size - at) // (2 * places))
        wanted.append(at)
    begin = first = 0
    for row in np.unique(np.searchsorted(ends, wanted, side="left")).tolist():
        # The last frame belongs to the last range, which has the text after it.
        if row >= len(frames) - 1:
            break
        end = int(ends[row])
        # Zero rows between the two frames belong to the text before the second one.
        last = int(frames.start[row] + frames.length[row])
        yield BlobRange(begin, end, first, last)
        begin, first = end, last
    yield BlobRange(begin, blob_size, first, disk_size)


def check_range(
    repository: Repository,
    backup_id: str,
    stream_id: str,
    place: BlobRange | None,
    *,
    sample_percent: float | None,
    workers: int,
    progress: Progress | None,
) -> RangeChecked:
    """Check a range of a blob, or (None) compare the digest of the whole blob. Damage is a result, and not stored.

    Raises NoFittingIdentity, ObjectStoreError, BusyError.
    """
    try:
        backup = repository.record_of(backup_id)
    except StoredDamage as error:
        return RangeChecked(damage=(error.damage,))
    stream = next(each for each in backup.streams if each.stream_id == stream_id)
    if not is_opened(stream):
        raise NoFittingIdentity(
            "no identity opens the blob", "Give the worker an identity, or leave out --scheduler."
        )
    advance = _Advance(place.end - place.begin if place is not None else stream.own_blob.size, progress)
    checked = BlobChecked()
    found: list[StoredDamage] = []
    with (
        repository.reading_vm(backup.vm),
        collecting(found, backup, stream),
        repository.open_blob(backup, stream) as blob,
    ):
        if place is None:
            threads = workers if repository.path != repository.location else 1
            check_digest(backup, stream, blob, threads, advance)
        else:
            checked = check_blob(
                backup,
                stream,
                blob,
                _rows(repository, backup, stream, place),
                sample_percent=sample_percent,
                workers=workers,
                advance=advance,
                within=place,
            )
    damage = [error.damage for error in [*found, *checked.damage]]
    return RangeChecked(checked.frames, checked.bytes, tuple(damage))


def _rows(repository: Repository, backup: Backup, stream: Stream, place: BlobRange) -> list[IndexRow]:
    with repository.open_index(backup, stream) as index:
        rows = list(index.rows(place.first, place.last))
    if stream.parts:
        # The text of the blob of a stream of parts tells only of its own frames.
        return [row for row in rows if row.blob_offset is not None and row.part == OWN]
    return rows


class _Advance:
    """Counts stored bytes."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total = 0, total
        self._progress = progress

    def __call__(self, stored: int) -> None:
        self._done += stored
        if self._progress is not None:
            self._progress(self._done, self._total)


def join(
    repository: Repository,
    result: Verified,
    blob: BigBlob,
    digest: RangeChecked | None,
    parts: Sequence[RangeChecked],
    notify: Notify,
) -> None:
    """Add what was found of a whole blob to `result`, and store it: its damage as findings, else that it was read.

    `digest` is the result for the digest of the whole, None for a sample. As in a check by one machine, a wrong digest
    counts only where no frame is damaged. `result` has what was found of the indexes already.
    """
    vm, stream_id = blob.backup.vm, blob.stream.stream_id
    is_damaged = any(damage.stream_id == stream_id for damage in result.damage)
    found = list(dict.fromkeys(each for part in parts for each in part.damage))
    if not found and digest is not None:
        found = list(digest.damage)
    found = [known_damage.with_points_lost(repository.catalog, each) for each in found]
    if found:
        known_damage.remember(repository, vm.id, "verify", found, notify)
    if digest is not None:
        damaged = frozenset([stream_id] if found or is_damaged else ())
        proofs.remember_streams(repository, {vm.id: {stream_id}}, damaged, notify)
    result.frames += sum(part.frames for part in parts)
    result.bytes += sum(part.bytes for part in parts)
    result.damage += [damage for damage in found if damage not in result.damage]
