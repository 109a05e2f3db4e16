# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking in: disks from elsewhere become a point of the repository."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pitr import __version__, times
from pitr.blob import DEFAULT_LEVEL
from pitr.catalog import Catalog
from pitr.endpoint.protocols import Source
from pitr.endpoint.streamed import StreamedSource
from pitr.errors import UsageError
from pitr.model import Backup, DiskSettings, Kind, Mode, Record, Stream, VMName
from pitr.repository import Repository
from pitr.repository.stream_sink import NewStream
from pitr.transfer.copy import DEFAULT_WORKERS, Progress
from pitr.transfer.dispatch import copy_any
from pitr.units import printable

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_MAX_NAME = 4096
#: For a state of which nobody can tell since when it was so.
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DiskToTakeIn:
    """One disk of a new point. `parent` is what an incremental one stands on; `open` gives its data, once.

    `stream_id` is the id that the stream had elsewhere, if it has one. `note` says what the source cannot tell.
    """

    disk_id: str
    name: str
    parent: tuple[Backup, Stream] | None
    open: Callable[[], AbstractContextManager[Source | StreamedSource]]
    settings: DiskSettings
    note: str | None
    stream_id: str | None = None


@dataclass(frozen=True, slots=True)
class PointToTakeIn:
    """A new point: the state of the VM at some moment in `[lo, point]`; `reason` says where it comes from."""

    vm: VMName
    point: datetime
    lo: datetime
    reason: str
    disks: tuple[DiskToTakeIn, ...]
    backup_id: str | None = None
    checkpoint_id: str | None = None
    from_checkpoint_id: str | None = None


def take_in(
    repository: Repository,
    new: PointToTakeIn,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Backup:
    """Store the disks and commit the point. Without a commit nothing is left in the repository.

    The caller holds the VM's lock, since before it chose the parents. Raises UsageError where they cannot be these,
    FormatError where a source is not what it should be.
    """
    started_at = time.monotonic()
    parents = {disk.parent[0].backup_id: disk.parent[0] for disk in new.disks if disk.parent is not None}
    if len(parents) > 1:
        raise UsageError("the disks of one point stand on different points")
    parent = next(iter(parents.values()), None)
    if parent is not None and new.point < parent.point:
        raise UsageError(
            f"a point of {times.for_people(new.point)} cannot stand on the later one of "
            f"{times.for_people(parent.point)}",
            "Give its time with --time.",
        )
    backup_id = new.backup_id or str(uuid.uuid4())
    with ExitStack() as cleanup:
        streams = [_store(repository, new, backup_id, disk, cleanup, workers, progress) for disk in new.disks]
        backup = Backup(
            backup_id=backup_id,
            vm=new.vm,
            kind=Kind.FULL if parent is None else Kind.INCREMENTAL,
            reason=new.reason,
            point=new.point,
            lo=new.lo,
            parent_id=parent.backup_id if parent else None,
            checkpoint_id=usable_id(new.checkpoint_id),
            from_checkpoint_id=usable_id(new.from_checkpoint_id),
            mode=Mode.IMPORTED,
            consistency="unknown",
            streams=tuple(streams),
            left_out=(),
            duration_ms=round((time.monotonic() - started_at) * 1000),
            pitr_version=__version__,
        )
        repository.commit(Record(backup, None))
        cleanup.pop_all()
    return backup


def _store(
    repository: Repository,
    new: PointToTakeIn,
    backup_id: str,
    disk: DiskToTakeIn,
    cleanup: ExitStack,
    workers: int,
    progress: Progress | None,
) -> Stream:
    stream = NewStream(
        stream_id=disk.stream_id or str(uuid.uuid4()),
        backup_id=backup_id,
        disk_id=disk.disk_id,
        name=disk.name,
        kind=Kind.FULL if disk.parent is None else Kind.INCREMENTAL,
        reason=new.reason if disk.parent is None else None,
        parent_stream_id=None if disk.parent is None else disk.parent[1].stream_id,
        settings=disk.settings,
        note=disk.note,
    )
    with disk.open() as source:
        meta = {
            "virtual-size": source.size,
            "data-size": 0,
            "date": times.to_text(new.point),
            "incremental": stream.kind is Kind.INCREMENTAL,
            "stream-id": stream.stream_id,
            "parent-stream-id": stream.parent_stream_id,
            "backup-id": backup_id,
            "disk-id": stream.disk_id,
            "disk-name": stream.name,
            "vm-id": new.vm.id,
            "vm-name": new.vm.name,
            "checkpoint-id": usable_id(new.checkpoint_id),
        }
        with repository.new_stream(stream, source.size, meta, level=DEFAULT_LEVEL) as sink:
            copy_any(source, sink, workers=workers, progress=progress)
    cleanup.callback(repository.drop_stream, stream.disk_id, stream.stream_id)
    return sink.stream


# Who is who


def choose_vm(catalog: Catalog, name: str | None, meta: Mapping[str, Any]) -> VMName:
    """The VM that is named, else the one that the stream names; known to the repository or new."""
    said_id, said_name = usable_id(meta.get("vm-id")), usable_name(meta.get("vm-name"))
    wanted = name or said_id
    if wanted is None:
        raise UsageError("the stream does not say which VM it is of", "Name it with --vm.")
    known = catalog.vms()
    found = [vm for vm in known if vm.id == wanted] or [vm for vm in known if vm.name == wanted]
    if len(found) > 1:
        raise UsageError(
            f"several VMs are named {wanted!r}", f"Use an id: {', '.join(vm.id for vm in found)}."
        )
    if found:
        return found[0]
    if said_id is not None and wanted in (said_id, said_name):
        return VMName(said_id, said_name or said_id)
    return VMName(str(uuid.uuid4()), usable_name(wanted) or "imported")


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """Which disk of the VM it is; `settings` are None for a disk that the repository does not know."""

    id: str
    name: str
    settings: DiskSettings | None


def choose_disk(
    catalog: Catalog, vm: VMName, name: str | None, said_id: str | None, said_name: str | None
) -> DiskIdentity:
    """The disk that is named, else the one that the source names; known to the repository or new."""
    wanted = name or said_id or said_name
    if wanted is None:
        raise UsageError("the stream does not say which disk it is of", "Name it with --disk.")
    known: dict[str, Stream] = {}
    for backup in catalog.points(vm.id):
        for stream in backup.streams:
            known.setdefault(stream.disk_id, stream)
    found = [stream for stream in known.values() if stream.disk_id == wanted] or [
        stream for stream in known.values() if stream.name == wanted
    ]
    if len(found) > 1:
        ids = ", ".join(stream.disk_id for stream in found)
        raise UsageError(f"several disks are named {wanted!r}", f"Use one of their ids: {ids}.")
    if found:
        return DiskIdentity(found[0].disk_id, found[0].name, found[0].settings)
    if said_id is not None and wanted in (said_id, said_name):
        return DiskIdentity(said_id, said_name or said_id, None)
    return DiskIdentity(str(uuid.uuid4()), wanted, None)


def parent_by_stream(catalog: Catalog, vm: VMName, disk_id: str, stream_id: str) -> tuple[Backup, Stream]:
    """The stream with this id, which an incremental one says that it stands on. Raises UsageError."""
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is not None and stream.stream_id == stream_id:
            return backup, stream
    raise UsageError(
        f"the stream stands on the stream {printable(stream_id)}, which the repository does not hold for this disk",
        "Import that one first.",
    )


def parent_named(catalog: Catalog, vm: VMName, disk_id: str, name: str, what: str) -> tuple[Backup, Stream]:
    """The newest point of the disk that has `name` as its id or its checkpoint. Raises UsageError."""
    for backup in catalog.points(vm.id):
        stream = backup.stream_of(disk_id)
        if stream is not None and name in (backup.backup_id, backup.checkpoint_id):
            return backup, stream
    raise UsageError(
        f"the stream stands on the {what} {printable(name)}, which the repository does not hold for this disk",
        "Import that one first, or name the point that it stands on with --onto.",
    )


def parent_at(backup: Backup, disk_id: str) -> tuple[Backup, Stream]:
    """The disk at the point that --onto names. Raises UsageError."""
    stream = backup.stream_of(disk_id)
    if stream is None:
        raise UsageError(f"the point {backup.backup_id} does not hold the disk")
    return backup, stream


def free_ids(catalog: Catalog, stream_id: str | None, backup_id: str | None) -> tuple[str | None, str | None]:
    """The ids that a stream had elsewhere, as far as they are free here. Raises UsageError for a known stream."""
    for backup in catalog.points():
        if stream_id is not None and any(stream.stream_id == stream_id for stream in backup.streams):
            raise UsageError(
                f"the stream {stream_id} is in the repository already, in backup {backup.backup_id}"
            )
        if backup.backup_id == backup_id:
            backup_id = None
    return stream_id, backup_id


def usable_id(value: object) -> str | None:
    """`value` if it can be an id here."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def usable_name(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_NAME else None


@dataclass(frozen=True, slots=True)
class SourceTime:
    """The earliest and the latest moment that a source's time can mean, and a note where it has no zone."""

    lo: datetime
    point: datetime
    note: str | None


def time_of(text: object) -> SourceTime | None:
    """The time that a source gives; None when it gives none that is one.

    A time without a zone is local time; one that happened twice, when clocks were set back, means both.
    """
    if not isinstance(text, str):
        return None
    try:
        given = datetime.fromisoformat(text)
        readings = sorted(given.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    except (ValueError, OverflowError, OSError):
        return None
    note = None if given.tzinfo else "the source gives its time without a zone: it was read as local time"
    return SourceTime(readings[0], readings[1], note)


def notes(parts: Sequence[str | None]) -> str | None:
    """Join what there is to say."""
    return "; ".join(part for part in parts if part) or None
