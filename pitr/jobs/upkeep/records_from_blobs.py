# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing points back from their blobs alone, when records or indexes are lost.

A blob's meta header says which stream, disk, backup and VM it is of. What it does not say is said to be unknown: the
VM's configuration, how the disk was set up on the engine, and how the backup was taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from pitr import times
from pitr.errors import FormatError, PitrError, RepositoryError
from pitr.model import Backup, DiskSettings, Kind, LeftOut, Mode, Record, StoredObject, Stream, VMName
from pitr.repository import Repository, index, names
from pitr.repository.blob import FRAME_SIZE, MAX_FRAME_SIZE
from pitr.repository.blob_walk import BlobWalk
from pitr.repository.store import check_name
from pitr.repository.stream_sink import written
from pitr.version import __version__

NOTE = "brought back from its blob: how the disk was set up on the engine is not known"
_REASON = "brought back from its blobs"
_BLOB = ".sparse.zst"


@dataclass(frozen=True, slots=True)
class BroughtBack:
    """The points that are there again, and what could not be brought back, a line each."""

    backups: tuple[Backup, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A stream whose blob is whole, with what its meta header says of its backup."""

    stream: Stream
    backup_id: str
    vm: VMName
    time: str
    checkpoint_id: str | None


def bring_back(repository: Repository) -> BroughtBack:
    """Make records and indexes again for all blobs that no readable record names.

    A stream whose parent is lost as well cannot be restored: it stays as it is, and its disk is left out of its
    point. Raises BusyError when a backup of one of the VMs runs, whose blobs have no record yet; RepositoryError.
    """
    with ExitStack() as locks:
        for vm in _vms(repository):
            locks.enter_context(repository.lock_vm(vm))
        # Only now: what a backup that has just ended has recorded must stay as it is.
        return _bring_back(repository)


def _vms(repository: Repository) -> list[VMName]:
    """The VMs that the blobs say they are of."""
    vms: dict[str, VMName] = {}
    for name in repository.store.list(names.STREAMS):
        if not name.endswith(_BLOB):
            continue
        # A blob that is no blob is told of when it is read.
        with suppress(PitrError), repository.store.open(name) as blob:
            vm = _vm(BlobWalk(blob).meta)
            if "/" not in check_name(vm.id):
                vms[vm.id] = vm
    return [vms[vm_id] for vm_id in sorted(vms)]


def _bring_back(repository: Repository) -> BroughtBack:
    recorded, failed = _recorded(repository)
    by_stream = {stream.stream_id: backup for backup in recorded for stream in backup.streams}
    found: dict[str, _Found] = {}
    for name in sorted(repository.store.list(names.STREAMS)):
        stream_id = name.rpartition("/")[2].removesuffix(_BLOB)
        if not name.endswith(_BLOB) or stream_id in by_stream:
            continue
        try:
            one = _read(repository, name)
        except (PitrError, ValueError) as error:
            failed.append(f"{name}: {error}")
        else:
            found[one.stream.stream_id] = one
    whole, orphans = _with_parents(found, by_stream)
    failed += [
        f"stream {one.stream.stream_id}: the stream that it stands on, {one.stream.parent_stream_id}, is lost"
        for one in orphans
    ]
    backups: list[Backup] = []
    for backup_id, parts in _by_backup(whole).items():
        lost = [one for one in orphans if one.backup_id == backup_id]
        try:
            backups.append(_backup(backup_id, parts, lost, found, by_stream))
        except PitrError as error:
            failed.append(error.message)
    known = {backup.backup_id for backup in recorded}
    made: list[Backup] = []
    # What a point stands on comes first.
    for backup in sorted(backups, key=lambda backup: backup.point):
        if backup.backup_id in known:
            failed.append(
                f"backup {backup.backup_id}: its record does not name all blobs that say they are of it"
            )
            continue
        try:
            repository.commit(Record(backup, None))
        except PitrError as error:
            failed.append(f"backup {backup.backup_id}: {error.message}")
        else:
            made.append(backup)
    return BroughtBack(tuple(made), tuple(failed))


def _recorded(repository: Repository) -> tuple[list[Backup], list[str]]:
    """The backups whose records can be read, and what is wrong with others."""
    backups: list[Backup] = []
    failed: list[str] = []
    for name in sorted(repository.store.list(names.BACKUPS)):
        try:
            backups.append(repository.read_record(name)[0].backup)
        except PitrError as error:
            failed.append(error.message)
    return backups, failed


def _read(repository: Repository, name: str) -> _Found:
    """Read a whole blob, and make its index again."""
    store = repository.store
    scratch = store.scratch_file()
    with store.open(name) as blob:
        walk = BlobWalk(blob)
        meta = walk.meta
        stream_id, disk_id = _text(meta, "stream-id"), _text(meta, "disk-id")
        if names.blob(disk_id, stream_id) != name:
            raise FormatError(f"it says that it is the stream {stream_id[:100]!r} of disk {disk_id[:100]!r}")
        kind = Kind.INCREMENTAL if walk.incremental else Kind.FULL
        parent = _text(meta, "parent-stream-id") if walk.incremental else None
        writer = index.IndexWriter(scratch)
        data_bytes = zero_bytes = 0
        frame_size = FRAME_SIZE
        try:
            rows: list[index.IndexRow] = []
            for row in walk:
                rows.append(row)
                if row.blob_offset is None:
                    zero_bytes += row.length
                else:
                    data_bytes += row.length
                    if row.start // frame_size != (row.start + row.length - 1) // frame_size:
                        frame_size = MAX_FRAME_SIZE
                if len(rows) >= 4096:
                    writer.add(rows)
                    rows.clear()
            writer.add(rows)
            writer.finish(
                index.StreamRow(
                    stream_id=stream_id,
                    backup_id=_text(meta, "backup-id"),
                    disk_id=disk_id,
                    kind=kind.value,
                    size=walk.virtual_size,
                    parent_stream_id=parent,
                    frame_size=frame_size,
                    blob_size=walk.size,
                    blob_digest=walk.digest,
                )
            )
        finally:
            writer.close()
    # Without a record nobody knows whether an index that is there is the one that was written.
    index_name = names.index(disk_id, stream_id)
    store.delete(index_name)
    with store.new(index_name) as new:
        stored_index = written(scratch, new)
        new.commit()
    scratch.unlink()
    stream = Stream(
        stream_id=stream_id,
        disk_id=disk_id,
        name=_text(meta, "disk-name"),
        kind=kind,
        reason=None if walk.incremental else _REASON,
        size=walk.virtual_size,
        parent_stream_id=parent,
        frame_size=frame_size,
        data_bytes=data_bytes,
        zero_bytes=zero_bytes,
        extents=writer.rows,
        blob=StoredObject(walk.size, walk.digest),
        index=stored_index,
        settings=DiskSettings(),
        note=NOTE,
    )
    vm = _vm(meta)
    checkpoint = meta.get("checkpoint-id")
    return _Found(
        stream,
        _text(meta, "backup-id"),
        vm,
        _text(meta, "date"),
        checkpoint if isinstance(checkpoint, str) else None,
    )


def _vm(meta: dict[str, object]) -> VMName:
    return VMName(_text(meta, "vm-id"), _text(meta, "vm-name"))


def _text(meta: dict[str, object], key: str) -> str:
    value = meta.get(key)
    if not isinstance(value, str) or not value:
        raise FormatError(f"its meta header does not name its {key}")
    return value


def _with_parents(
    found: dict[str, _Found], by_stream: dict[str, Backup]
) -> tuple[list[_Found], list[_Found]]:
    """Tell the streams whose chains are there from those that stand on something lost."""
    sound: dict[str, bool] = {}

    def is_sound(one: _Found) -> bool:
        # Up to a stream that is known about, then back down.
        path: list[str] = []
        current: _Found | None = one
        while current is not None and current.stream.stream_id not in sound:
            stream = current.stream
            path.append(stream.stream_id)
            # A chain that bites its tail has no full.
            sound[stream.stream_id] = False
            parent = stream.parent_stream_id
            if parent is None or parent in by_stream:
                sound[stream.stream_id] = True
                break
            current = found.get(parent)
        result = current is not None and sound[current.stream.stream_id]
        sound.update(dict.fromkeys(path, result))
        return result

    whole = [one for one in found.values() if is_sound(one)]
    return whole, [one for one in found.values() if not sound[one.stream.stream_id]]


def _by_backup(found: Iterable[_Found]) -> dict[str, list[_Found]]:
    groups: dict[str, list[_Found]] = defaultdict(list)
    for one in found:
        groups[one.backup_id].append(one)
    return groups


def _backup(
    backup_id: str,
    parts: list[_Found],
    orphans: list[_Found],
    found: dict[str, _Found],
    by_stream: dict[str, Backup],
) -> Backup:
    first = parts[0]
    if any((one.vm.id, one.time) != (first.vm.id, first.time) for one in parts):
        raise RepositoryError(f"the blobs of backup {backup_id} do not agree on its VM and time")
    parents: set[tuple[str, str | None]] = set()
    for one in parts:
        parent = one.stream.parent_stream_id
        if parent in found:
            parents.add((found[parent].backup_id, found[parent].checkpoint_id))
        elif parent in by_stream:
            parents.add((by_stream[parent].backup_id, by_stream[parent].checkpoint_id))
    if len(parents) > 1:
        raise RepositoryError(f"the streams of backup {backup_id} stand on several backups")
    parent_id, from_checkpoint_id = next(iter(parents), (None, None))
    point = times.from_text(first.time)
    return Backup(
        backup_id=backup_id,
        vm=first.vm,
        kind=Kind.INCREMENTAL if parent_id is not None else Kind.FULL,
        reason=None if parent_id is not None else _REASON,
        point=point,
        lo=point,
        parent_id=parent_id,
        checkpoint_id=first.checkpoint_id,
        from_checkpoint_id=from_checkpoint_id,
        mode=Mode.IMPORTED,
        consistency="unknown",
        streams=tuple(one.stream for one in parts),
        left_out=tuple(
            LeftOut(one.stream.disk_id, one.stream.name, "the stream that it stands on is lost")
            for one in sorted(orphans, key=lambda one: one.stream.disk_id)
        ),
        duration_ms=0,
        pitr_version=__version__,
    )
