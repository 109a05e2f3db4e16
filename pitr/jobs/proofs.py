# SPDX-License-Identifier: GPL-2.0-or-later
"""Know when the data of each VM was last read and found good.

`pitr verify` notes the streams that it read completely, and `pitr verify --against-engine` the point that it compared.
Drills have results of their own (pitr/repository/drills.py). Nothing here fails a command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from pitr import times
from pitr.errors import FormatError, RepositoryError
from pitr.model import Backup, Stream, VMName
from pitr.reporting import Notify
from pitr.repository import Repository, drills, proofs
from pitr.repository.drills import Proven
from pitr.repository.proofs import Proof, StoredProof

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ReadStream:
    """A stream of a backup; `read` is when a check last read all of it and found it good, None if never."""

    backup: Backup
    stream: Stream
    read: datetime | None


def last_read(repository: Repository, vm_id: str) -> dict[str, datetime]:
    """Return when each stream of a VM was last read completely and found good, by stream id. Raises RepositoryError."""
    return _merged(proofs.of_vm(repository.store, vm_id))


def least_recently_read(repository: Repository, vms: Iterable[VMName]) -> list[ReadStream]:
    """Return the streams of these VMs that `pitr verify` can read: those never read first, then the longest unread.

    Streams with the same time come in the order of their points, so that each chain is read from its full on. Among
    them are those of which only the blob is left, as a part of others. Streams that are stored externally are not
    among them. Raises RepositoryError.
    """
    found: list[ReadStream] = []
    for vm in vms:
        read = last_read(repository, vm.id)
        points = repository.catalog_of_vm(vm.id).points(vm.id)
        found += [
            ReadStream(backup, stream, read.get(stream.stream_id))
            for backup, stream in _with_blobs_of_parts(points)
            if repository.is_here(stream)
        ]
    return sorted(found, key=lambda each: each.read or _LONG_AGO)


def _with_blobs_of_parts(points: Sequence[Backup]) -> Iterator[tuple[Backup, Stream]]:
    """Yield the streams of these points, oldest first, and those whose blobs others use after their records went."""
    from pitr.repository.layers import blobs_of_others  # noqa: PLC0415 - a status needs no arrays

    known = {stream.stream_id for backup in points for stream in backup.streams}
    for backup in reversed(points):
        for stream in backup.streams:
            yield backup, stream
            for used in blobs_of_others(stream):
                if used.stream_id not in known:
                    known.add(used.stream_id)
                    yield backup, used


def last_proven(
    repository: Repository,
    vm_id: str | None = None,
    *,
    drilled: Iterable[tuple[str, str, Proven]] | None = None,
) -> dict[str, datetime]:
    """Return when a check or a drill last read all data of a point and found it good, by VM id (None: of all VMs).

    `drilled` has the drills of `drills.listed`, if you know them. Reads only names of objects. Raises RepositoryError.
    """
    proven = proofs.last_proven(repository.store, vm_id)
    for of_vm, _, drill in drills.listed(repository.store, vm_id) if drilled is None else drilled:
        if drill.ok and drill.complete:
            proven[of_vm] = max(drill.time, proven.get(of_vm, drill.time))
    return proven


def remember_streams(
    repository: Repository, read: Mapping[str, Set[str]], damaged: Set[str], notify: Notify
) -> None:
    """Note the streams that a check has just read completely and found good: their ids by VM id.

    The streams in `damaged` count as never read. `notify` gets a line if that fails.
    """
    for vm_id, streams in read.items():
        _replace(repository, vm_id, streams - damaged, damaged, None, notify)


def remember_point(repository: Repository, vm_id: str, notify: Notify) -> None:
    """Note that a check has just read all live data of the VM's newest point and found it good."""
    _replace(repository, vm_id, frozenset(), frozenset(), times.now(), notify)


def _replace(
    repository: Repository,
    vm_id: str,
    read: Set[str],
    damaged: Set[str],
    proven: datetime | None,
    notify: Notify,
) -> None:
    try:
        old = list(proofs.of_vm(repository.store, vm_id))
        points = repository.catalog_of_vm(vm_id).points(vm_id)
        merged = _merged(old) | dict.fromkeys(read, times.now())
        known = {blob for backup in points for stream in backup.streams for blob in _blobs(stream)} - damaged
        streams = {stream_id: time for stream_id, time in merged.items() if stream_id in known}
        earlier = [each.proof.proven for each in old if each.proof is not None]
        all_proven = [time for time in (proven, point_proven(points, streams), *earlier) if time is not None]
        proofs.add(repository.store, Proof(vm_id, streams, max(all_proven, default=None)))
        proofs.remove(repository.store, old)
    except (RepositoryError, FormatError) as error:
        notify(f"cannot note in the repository that the data was read: {error.message}")


def _merged(stored: Iterable[StoredProof]) -> dict[str, datetime]:
    merged: dict[str, datetime] = {}
    for each in stored:
        for stream_id, time in (each.proof.streams if each.proof is not None else {}).items():
            merged[stream_id] = max(time, merged.get(stream_id, time))
    return merged


def point_proven(points: Sequence[Backup], read: Mapping[str, datetime]) -> datetime | None:
    """Return the latest time since which all streams of a point's chains were read; None if there is no such point."""
    since = _chains_read(points, read)
    proven = [
        time
        for backup in points
        if backup.streams and (time := _earliest(since.get(each.stream_id) for each in backup.streams))
    ]
    return max(proven, default=None)


def _chains_read(points: Sequence[Backup], read: Mapping[str, datetime]) -> dict[str, datetime | None]:
    """Return by stream id the time since which the whole chain of the stream was read; None if it was not."""
    streams = {stream.stream_id: stream for backup in points for stream in backup.streams}
    parents = _parents(points, streams)
    since: dict[str, datetime | None] = {}
    for stream in streams.values():
        chain: list[Stream] = []
        link: Stream | None = stream
        while link is not None and link.stream_id not in since:
            # Also ends a loop, which only damage can make.
            since[link.stream_id] = None
            chain.append(link)
            link = parents.get(link.stream_id)
        for each in reversed(chain):
            own = _earliest(read.get(blob) for blob in _blobs(each))
            parent = parents.get(each.stream_id)
            below = since.get(parent.stream_id) if parent is not None else None
            since[each.stream_id] = own if each.parent_stream_id is None else _earliest((own, below))
    return since


def _parents(points: Sequence[Backup], streams: Mapping[str, Stream]) -> dict[str, Stream]:
    """Return the parent of each stream that has one; that of a backup which stands for the parent's, if it is gone."""
    instead: dict[tuple[str | None, str], Stream] = {
        (backup.stands_for, stream.disk_id): stream
        for backup in points
        if backup.stands_for is not None
        for stream in backup.streams
    }
    parents: dict[str, Stream] = {}
    for backup in points:
        for stream in backup.streams:
            if stream.parent_stream_id is not None:
                known = streams.get(stream.parent_stream_id)
                parent = known or instead.get((backup.parent_id, stream.disk_id))
                if parent is not None:
                    parents[stream.stream_id] = parent
    return parents


def _blobs(stream: Stream) -> list[str]:
    """Return the ids of the streams in whose blobs the stream's own data is; its own id if it is in none."""
    return [part.stream_id for part in stream.parts] or [stream.stream_id]


def _earliest(given: Iterable[datetime | None]) -> datetime | None:
    """Return the earliest of these times; None if one of them is None."""
    listed = list(given)
    whole = [time for time in listed if time is not None]
    return min(whole) if len(whole) == len(listed) else None
