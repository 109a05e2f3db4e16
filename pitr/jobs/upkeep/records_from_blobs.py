# SPDX-License-Identifier: GPL-2.0-or-later
"""Recover lost records and indexes from blobs alone.

A blob's meta header has the ids of its stream, disk, backup and VM. Everything else is recorded as unknown: the VM's
configuration, the settings of the disk on the engine, and how the engine took the backup.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from pitr import times
from pitr.errors import FormatError, PitrError, RepositoryError
from pitr.model import Backup, Cause, DiskSettings, Kind, LeftOut, Mode, Record, StoredObject, Stream, VMName
from pitr.repository import Repository, index, names
from pitr.repository.blob import FRAME_SIZE, MAX_FRAME_SIZE
from pitr.repository.blob_walk import BlobWalk
from pitr.repository.store import check_name
from pitr.repository.stream_sink import written
from pitr.version import __version__

NOTE = "recovered from its blob: the settings of the disk on the engine are unknown"
_REASON = "recovered from its blobs"
_BLOB = ".sparse.zst"
#: The second copy of an index, which only streams that use frames of others have.
_COPY = ".copy.db"
#: Index rows that are written at a time.
_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Recovered:
    """The recovered points, and a line for each failure."""

    backups: tuple[Backup, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _BlobStream:
    """A stream whose blob is complete, with what its meta header says about its backup."""

    stream: Stream
    backup_id: str
    vm: VMName
    time: str
    checkpoint_id: str | None
    #: The backup that it is based on; blobs from other programs do not tell it.
    parent_backup_id: str | None

    @property
    def stream_id(self) -> str:
        return self.stream.stream_id

    @property
    def parent_id(self) -> str | None:
        return self.stream.parent_stream_id


def recover(repository: Repository) -> Recovered:
    """Write new records and indexes for all blobs that no readable record names, and return the recovered points.

    If a stream's parent is also lost, its blob stays and the point leaves its disk out. Raises BusyError while one of
    the VMs is being backed up, because the blobs of a running backup have no record yet; RepositoryError.
    """
    repository.check_opens()
    with ExitStack() as locks:
        locks.enter_context(repository.collecting())
        for vm in _vms(repository):
            locks.enter_context(repository.lock_vm(vm))
        # Read the records under the locks: a backup may just have committed one.
        return _recover(repository)


def _vms(repository: Repository) -> list[VMName]:
    """Return the VMs that the blobs name."""
    vms: dict[str, VMName] = {}
    for name in repository.store.list(names.BLOBS):
        if not name.endswith(_BLOB):
            continue
        # _recover reports blobs that are unreadable.
        with suppress(PitrError), repository.store.open(name) as blob:
            vm = _vm(BlobWalk(blob).meta)
            if "/" not in check_name(vm.id):
                vms[vm.id] = vm
    return [vms[vm_id] for vm_id in sorted(vms)]


def _recover(repository: Repository) -> Recovered:
    recorded, failed = _recorded(repository)
    by_stream = {stream.stream_id: backup for backup in recorded for stream in backup.streams}
    # The record of such a blob was removed on purpose, and its point with it.
    parts = {part.stream_id for backup in recorded for stream in backup.streams for part in stream.parts}
    by_id: dict[str, _BlobStream] = {}
    for name in sorted(repository.store.list(names.INDEXES)):
        if name.endswith(_COPY) and name.rpartition("/")[2].removesuffix(_COPY) not in by_stream:
            failed.append(f"{name}: the stream used frames of others, so no blob can give its point back")
    for name in sorted(repository.store.list(names.BLOBS)):
        stream_id = name.rpartition("/")[2].removesuffix(_BLOB)
        if not name.endswith(_BLOB) or stream_id in by_stream or stream_id in parts:
            continue
        try:
            stream = _read(repository, name)
        except (PitrError, ValueError) as error:
            failed.append(f"{name}: {error}")
        else:
            by_id[stream.stream_id] = stream
    by_stream |= _replaced_parents(by_id, by_stream, recorded)
    complete, orphans = _with_parents(by_id, by_stream)
    failed += [
        f"stream {orphan.stream_id}: it is based on stream {orphan.parent_id}, which is lost"
        for orphan in orphans
    ]
    backups: list[Backup] = []
    for backup_id, streams in _by_backup(complete).items():
        lost = [orphan for orphan in orphans if orphan.backup_id == backup_id]
        try:
            backups.append(_backup(backup_id, streams, lost, by_id, by_stream))
        except PitrError as error:
            failed.append(error.message)
    known = {backup.backup_id for backup in recorded}
    recovered: list[Backup] = []
    # A point comes after the points it is based on.
    for backup in sorted(backups, key=lambda backup: backup.point):
        if backup.backup_id in known:
            failed.append(f"backup {backup.backup_id}: its record does not name all of its blobs")
            continue
        try:
            repository.commit(Record(backup, None))
        except PitrError as error:
            failed.append(f"backup {backup.backup_id}: {error.message}")
        else:
            recovered.append(backup)
    return Recovered(tuple(recovered), tuple(failed))


def _recorded(repository: Repository) -> tuple[list[Backup], list[str]]:
    """Return the backups whose records are readable, and an error for each other record."""
    backups: list[Backup] = []
    failed: list[str] = []
    for name in sorted(repository.store.list(names.BACKUPS)):
        try:
            backups.append(repository.read_record(name)[0])
        except PitrError as error:
            failed.append(error.message)
    return backups, failed


def _read(repository: Repository, name: str) -> _BlobStream:
    """Read a whole blob, and write its index again."""
    with repository.store.open(name) as blob:
        walk = BlobWalk(blob)
        meta = walk.meta
        stream_id, disk_id = _text(meta, "stream-id"), _text(meta, "disk-id")
        if names.blob(disk_id, stream_id) != name:
            raise FormatError(f"its meta header names stream {stream_id[:100]!r} of disk {disk_id[:100]!r}")
        totals, stored_index = _write_index(repository, walk, stream_id, disk_id)
    checkpoint = meta.get("checkpoint-id")
    stream = Stream(
        stream_id=stream_id,
        disk_id=disk_id,
        name=_text(meta, "disk-name"),
        kind=_kind(walk),
        reason=None if walk.incremental else _REASON,
        size=walk.virtual_size,
        parent_stream_id=_parent_id(walk),
        frame_size=totals.frame_size,
        data_bytes=totals.data_bytes,
        zero_bytes=totals.zero_bytes,
        extents=totals.extents,
        blob=StoredObject(walk.size, walk.digest),
        index=stored_index,
        settings=DiskSettings(),
        note=NOTE,
    )
    return _BlobStream(
        stream,
        _text(meta, "backup-id"),
        _vm(meta),
        _text(meta, "date"),
        checkpoint if isinstance(checkpoint, str) else None,
        parent_backup if isinstance(parent_backup := meta.get("parent-backup-id"), str) else None,
    )


@dataclass(slots=True)
class _Totals:
    """The totals of a blob's extents, in bytes of the disk, and the frame size that they fit."""

    frame_size: int = FRAME_SIZE
    data_bytes: int = 0
    zero_bytes: int = 0
    extents: int = 0

    def add(self, row: index.IndexRow) -> None:
        self.extents += 1
        if row.blob_offset is None:
            self.zero_bytes += row.length
            return
        self.data_bytes += row.length
        if row.start // self.frame_size != (row.start + row.length - 1) // self.frame_size:
            self.frame_size = MAX_FRAME_SIZE


def _write_index(
    repository: Repository, walk: BlobWalk, stream_id: str, disk_id: str
) -> tuple[_Totals, StoredObject]:
    """Walk the blob and write its index in place of any old one."""
    store = repository.store
    scratch = store.scratch_file()
    writer = index.IndexWriter(scratch)
    totals = _Totals()
    try:
        rows: list[index.IndexRow] = []
        for row in walk:
            rows.append(row)
            totals.add(row)
            if len(rows) >= _ROWS:
                writer.add(rows)
                rows.clear()
        writer.add(rows)
        writer.finish(
            index.StreamRow(
                stream_id=stream_id,
                backup_id=_text(walk.meta, "backup-id"),
                disk_id=disk_id,
                kind=_kind(walk).value,
                size=walk.virtual_size,
                parent_stream_id=_parent_id(walk),
                frame_size=totals.frame_size,
            ),
            [index.PartRow(index.OWN, disk_id, stream_id, walk.size, walk.digest)],
        )
    finally:
        writer.close()
    # The record has the digest of an index. Without the record, an old index is not trustworthy.
    index_name = names.index(disk_id, stream_id)
    store.delete(index_name)
    with store.new(index_name) as new:
        stored_index = written(scratch, new)
        new.commit()
    scratch.unlink()
    return totals, stored_index


def _kind(walk: BlobWalk) -> Kind:
    return Kind.INCREMENTAL if walk.incremental else Kind.FULL


def _parent_id(walk: BlobWalk) -> str | None:
    if walk.incremental and walk.meta.get("parent-stream-id") is None:
        raise FormatError("it holds only a part of its disk; the rest is in blobs of other streams")
    return _text(walk.meta, "parent-stream-id") if walk.incremental else None


def _vm(meta: dict[str, object]) -> VMName:
    return VMName(_text(meta, "vm-id"), _text(meta, "vm-name"))


def _text(meta: dict[str, object], key: str) -> str:
    value = meta.get(key)
    if not isinstance(value, str) or not value:
        raise FormatError(f"its meta header has no {key}")
    return value


def _with_parents(
    by_id: dict[str, _BlobStream], by_stream: dict[str, Backup]
) -> tuple[list[_BlobStream], list[_BlobStream]]:
    """Return the streams with complete chains, and those that are based on a lost stream."""
    complete: dict[str, bool] = {}

    def is_complete(stream: _BlobStream) -> bool:
        # Walk up to a stream whose state is known, then set the state of all streams on the path.
        path: list[str] = []
        current: _BlobStream | None = stream
        while current is not None and current.stream_id not in complete:
            path.append(current.stream_id)
            # Also ends the walk on a chain that is a circle: it has no full.
            complete[current.stream_id] = False
            parent_id = current.parent_id
            if parent_id is None or parent_id in by_stream:
                complete[current.stream_id] = True
                break
            current = by_id.get(parent_id)
        result = current is not None and complete[current.stream_id]
        complete.update(dict.fromkeys(path, result))
        return result

    with_chain = [stream for stream in by_id.values() if is_complete(stream)]
    return with_chain, [stream for stream in by_id.values() if not complete[stream.stream_id]]


def _replaced_parents(
    by_id: dict[str, _BlobStream], by_stream: dict[str, Backup], recorded: list[Backup]
) -> dict[str, Backup]:
    """Return, by the id of a parent stream that is gone, the synthetic backup that stands for the parent's."""
    stand_ins = {backup.stands_for: backup for backup in recorded if backup.stands_for is not None}
    found: dict[str, Backup] = {}
    for stream in by_id.values():
        stand_in = stand_ins.get(stream.parent_backup_id or "")
        lost = stream.parent_id is not None and not {stream.parent_id} & {*by_id, *by_stream}
        if lost and stand_in is not None and stand_in.stream_of(stream.stream.disk_id) is not None:
            found[stream.parent_id or ""] = stand_in
    return found


def _by_backup(streams: Iterable[_BlobStream]) -> dict[str, list[_BlobStream]]:
    groups: dict[str, list[_BlobStream]] = defaultdict(list)
    for stream in streams:
        groups[stream.backup_id].append(stream)
    return groups


def _backup(
    backup_id: str,
    streams: list[_BlobStream],
    orphans: list[_BlobStream],
    by_id: dict[str, _BlobStream],
    by_stream: dict[str, Backup],
) -> Backup:
    first = streams[0]
    if any((stream.vm.id, stream.time) != (first.vm.id, first.time) for stream in streams):
        raise RepositoryError(f"the blobs of backup {backup_id} name different VMs or times")
    parents: set[tuple[str, str | None]] = set()
    for stream in streams:
        parent_id = stream.parent_id
        if parent_id in by_id:
            parents.add((by_id[parent_id].backup_id, by_id[parent_id].checkpoint_id))
        elif parent_id in by_stream:
            parent = by_stream[parent_id]
            parents.add((parent.known_as, parent.checkpoint_id))
    if len(parents) > 1:
        raise RepositoryError(f"the streams of backup {backup_id} are based on several backups")
    parent_backup_id, from_checkpoint_id = next(iter(parents), (None, None))
    point = times.from_text(first.time)
    return Backup(
        backup_id=backup_id,
        vm=first.vm,
        kind=Kind.INCREMENTAL if parent_backup_id is not None else Kind.FULL,
        reason=None if parent_backup_id is not None else _REASON,
        point=point,
        lo=point,
        parent_id=parent_backup_id,
        checkpoint_id=first.checkpoint_id,
        from_checkpoint_id=from_checkpoint_id,
        mode=Mode.IMPORTED,
        consistency="unknown",
        streams=tuple(stream.stream for stream in streams),
        left_out=tuple(
            LeftOut(
                orphan.stream.disk_id,
                orphan.stream.name,
                "the stream it is based on is lost",
                Cause.MISSING,
            )
            for orphan in sorted(orphans, key=lambda orphan: orphan.stream.disk_id)
        ),
        duration_ms=0,
        pitr_version=__version__,
    )
