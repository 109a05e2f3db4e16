# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of streams: each becomes a point with one disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

from pitr import times
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.endpoints.streams.detect import InputFormat, KnownSource, open_stream
from pitr.endpoints.streams.input import Remembered
from pitr.endpoints.streams.rbd_diff import RbdDiffSource
from pitr.endpoints.streams.sparse import SparseStreamSource
from pitr.errors import UsageError
from pitr.formats import virtnbdbackup
from pitr.jobs.imports import identify, returned_blob, store_point
from pitr.jobs.imports.store_point import DiskToImport, PointToImport
from pitr.model import Backup, DiskSettings, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.catalog import Catalog
from pitr.repository.names import usable_id, usable_name
from pitr.text import printable

_NO_TIME = "the stream does not tell its time: the point has the time of the import"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The VM and the disk (names or ids), the time of the point, and the point that the stream is based on.

    `before` is the parent of an incremental stream that does not name one: the point of the stream before it.
    """

    vm: str | None = None
    disk: str | None = None
    time: datetime | None = None
    onto: Backup | None = None
    before: Backup | None = None
    format: InputFormat | None = None
    workers: int = DEFAULT_WORKERS


@dataclass(frozen=True, slots=True)
class _Description:
    """What a stream of any format tells about itself."""

    format: str
    meta: Mapping[str, Any]
    disk_id: str | None = None
    disk_name: str | None = None
    stream_id: str | None = None
    backup_id: str | None = None
    time: object = None
    name: str | None = None
    parent_stream_id: str | None = None
    parent_name: str | None = None
    note: str | None = None


def import_stream(
    repository: Repository,
    stream: BinaryIO,
    options: ImportOptions,
    *,
    progress: Progress | None = None,
) -> Backup:
    """Read one stream to its end, commit it as a point, and return the point. The caller closes `stream`.

    An externally stored blob of a known point is stored for that point again. Raises FormatError if the stream is
    incomplete or invalid, and UsageError if neither the stream nor `options` name its VM, disk or parent.
    """
    remembered = Remembered(stream)
    source = open_stream(cast(BinaryIO, remembered), options.format)
    description = _describe(source)
    if description.stream_id is not None:
        known = returned_blob.find_external(repository.catalog, description.stream_id)
        if known is not None:
            _check_options(options, *known)
            returned_blob.store_external(repository, *known, remembered.again(), progress)
            return known[0]
    remembered.forget()
    vm = identify.choose_vm(repository.catalog, options.vm, description.meta)
    with repository.lock_vm(vm):
        return store_point.store(
            repository,
            _point(repository.catalog, vm, source, description, options),
            [lambda: nullcontext(source)],
            workers=options.workers,
            progress=progress,
        )


def _point(
    catalog: Catalog, vm: VMName, source: KnownSource, description: _Description, options: ImportOptions
) -> PointToImport:
    """Return the point that the stream makes. Raises UsageError."""
    disk = identify.choose_disk(catalog, vm, options.disk, description.disk_id, description.disk_name)
    stream_id, backup_id = identify.free_ids(catalog, description.stream_id, description.backup_id)
    parent = _parent(catalog, vm, disk.id, description, options) if not source.whole else None
    if source.whole and options.onto is not None:
        raise UsageError("--onto goes with incremental streams, but this stream holds the whole disk")
    point, lo, time_note = _times(options, description, parent)
    no_settings = None if disk.settings else store_point.NO_SETTINGS
    new_disk = DiskToImport(
        disk_id=disk.id,
        name=disk.name,
        parent=parent,
        settings=disk.settings or DiskSettings(),
        note=store_point.join_notes((description.note, time_note, no_settings)),
        stream_id=stream_id,
    )
    return PointToImport(
        vm=vm,
        point=point,
        lo=lo,
        reason=f"imported from a stream ({description.format})",
        disks=(new_disk,),
        backup_id=backup_id,
        checkpoint_id=description.name,
        from_checkpoint_id=None if source.whole else description.parent_name,
    )


def _parent(
    catalog: Catalog, vm: VMName, disk_id: str, description: _Description, options: ImportOptions
) -> tuple[Backup, Stream]:
    """Return the disk at the point that an incremental stream is based on. Raises UsageError."""
    if description.parent_stream_id is not None:
        parent = identify.parent_by_stream(catalog, vm, disk_id, description.parent_stream_id)
    elif options.onto is not None:
        parent = identify.parent_at(options.onto, disk_id)
    elif description.parent_name is not None:
        kind = "snapshot" if description.format == "rbd-diff" else "point"
        parent = identify.parent_named(catalog, vm, disk_id, description.parent_name, kind)
    elif options.before is not None:
        parent = identify.parent_at(options.before, disk_id)
    else:
        raise UsageError(
            "the stream is incremental and does not name the point that it is based on",
            "Name that point with --onto.",
        )
    if options.onto is not None and parent[0] != options.onto:
        raise UsageError(
            f"the stream is based on backup {parent[0].backup_id}, not on the backup of --onto",
            "Leave --onto out.",
        )
    return parent


def _check_options(options: ImportOptions, backup: Backup, stream: Stream) -> None:
    """Raise UsageError for options that contradict the known point of a blob."""
    contradiction = (
        options.vm not in (None, backup.vm.id, backup.vm.name)
        or options.disk not in (None, stream.disk_id, stream.name)
        or options.time is not None
        or options.onto is not None
    )
    if contradiction:
        raise UsageError(
            f"this is the blob of stream {stream.stream_id}, which backup {backup.backup_id} of VM "
            f"{printable(backup.vm.name)} piped out",
            "It belongs to that point only: leave out --vm, --disk, --time and --onto.",
        )


def _describe(source: KnownSource) -> _Description:
    if isinstance(source, SparseStreamSource):
        meta = source.meta
        return _Description(
            "sparse",
            meta,
            disk_id=usable_id(meta.get("disk-id")),
            disk_name=usable_name(meta.get("disk-name")),
            stream_id=usable_id(meta.get("stream-id")),
            backup_id=usable_id(meta.get("backup-id")),
            time=meta.get("date"),
            name=usable_id(meta.get("checkpoint-id")),
            parent_stream_id=usable_id(meta.get("parent-stream-id")),
            parent_name=usable_id(meta.get("since-backup-id")),
        )
    if isinstance(source, RbdDiffSource):
        return _Description("rbd-diff", {}, name=source.to_snapshot, parent_name=source.from_snapshot)
    described = source.meta
    return _Description(
        "virtnbdbackup",
        {},
        disk_name=usable_name(described.disk_name),
        time=described.date.isoformat() if described.date else None,
        name=described.checkpoint,
        parent_name=described.parent_checkpoint,
        note=virtnbdbackup.NOTE if described.incremental else None,
    )


def _times(
    options: ImportOptions, description: _Description, parent: tuple[Backup, Stream] | None
) -> tuple[datetime, datetime, str | None]:
    """Return the point's time, the earliest moment that its state can be of, and a note."""
    if options.time is not None:
        return options.time, options.time, None
    time = store_point.time_of(description.time)
    if time is not None:
        return time.point, time.lo, time.note
    return times.now(), parent[0].point if parent else store_point.LONG_AGO, _NO_TIME
