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
from pitr.jobs.imports.store_point import DiskToTakeIn, PointToTakeIn
from pitr.model import Backup, DiskSettings, Stream
from pitr.reporting import Progress
from pitr.repository import Repository, names
from pitr.text import printable

_NO_SETTINGS = "how the disk was set up is not known: it is restored as a thin qcow2 disk"
_NO_TIME = "the stream does not tell its time: the point is labelled with the time of the import"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What was asked for: names or ids of VM and disk, the time of the point, the point that it stands on.

    `before`: what an incremental stream stands on that does not say it, because a person gave them in this order.
    """

    vm: str | None = None
    disk: str | None = None
    time: datetime | None = None
    onto: Backup | None = None
    before: Backup | None = None
    format: InputFormat | None = None
    workers: int = DEFAULT_WORKERS


@dataclass(frozen=True, slots=True)
class _Said:
    """What a stream tells of itself, whatever its format."""

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
    """Read one stream to its end and commit it as a point. The caller closes `stream`.

    The blob of a point that the repository knows, which was piped out, becomes that point's again.

    Raises FormatError when it is not whole or not a stream, and UsageError where it does not say what it is of and
    `options` do not either: nothing is guessed.
    """
    remembered = Remembered(stream)
    source = open_stream(cast(BinaryIO, remembered), options.format)
    said = _said(source)
    if said.stream_id is not None:
        known = returned_blob.piped_out(repository.catalog, said.stream_id)
        if known is not None:
            _check_is_asked_for(options, *known)
            returned_blob.bring_back(repository, *known, remembered.again(), progress)
            return known[0]
    remembered.forget()
    vm = identify.choose_vm(repository.catalog, options.vm, said.meta)
    with repository.lock_vm(vm):
        catalog = repository.catalog
        disk = identify.choose_disk(catalog, vm, options.disk, said.disk_id, said.disk_name)
        stream_id, backup_id = identify.free_ids(catalog, said.stream_id, said.backup_id)
        parent: tuple[Backup, Stream] | None = None
        if source.whole:
            if options.onto is not None:
                raise UsageError("--onto goes with incremental streams: this one holds the whole disk")
        elif said.parent_stream_id is not None:
            parent = identify.parent_by_stream(catalog, vm, disk.id, said.parent_stream_id)
        elif options.onto is not None:
            parent = identify.parent_at(options.onto, disk.id)
        elif said.parent_name is not None:
            what = "snapshot" if said.format == "rbd-diff" else "point"
            parent = identify.parent_named(catalog, vm, disk.id, said.parent_name, what)
        elif options.before is not None:
            parent = identify.parent_at(options.before, disk.id)
        else:
            raise UsageError(
                "the stream is incremental and does not say what it stands on",
                "Name the point that it stands on with --onto.",
            )
        if parent is not None and options.onto is not None and parent[0] != options.onto:
            raise UsageError(f"the stream stands on backup {parent[0].backup_id}, not on that of --onto")
        point, lo, time_note = _times(options, said, parent)
        return store_point.take_in(
            repository,
            PointToTakeIn(
                vm=vm,
                point=point,
                lo=lo,
                reason=f"imported from a stream ({said.format})",
                disks=(
                    DiskToTakeIn(
                        disk_id=disk.id,
                        name=disk.name,
                        parent=parent,
                        settings=disk.settings or DiskSettings(),
                        note=store_point.notes(
                            (said.note, time_note, None if disk.settings else _NO_SETTINGS)
                        ),
                        stream_id=stream_id,
                    ),
                ),
                backup_id=backup_id,
                checkpoint_id=said.name,
                from_checkpoint_id=None if source.whole else said.parent_name,
            ),
            [lambda: nullcontext(source)],
            workers=options.workers,
            progress=progress,
        )


def _check_is_asked_for(options: ImportOptions, backup: Backup, stream: Stream) -> None:
    """Raise UsageError where a blob of a known point was to become something else."""
    other = (
        options.vm not in (None, backup.vm.id, backup.vm.name)
        or options.disk not in (None, stream.disk_id, stream.name)
        or options.time is not None
        or options.onto is not None
    )
    if other:
        raise UsageError(
            f"this is the blob of stream {stream.stream_id}, piped out by backup {backup.backup_id} of VM "
            f"{printable(backup.vm.name)}",
            "It can be that point only: leave out --vm, --disk, --time and --onto.",
        )


def _said(source: KnownSource) -> _Said:
    usable = names.usable_id
    if isinstance(source, SparseStreamSource):
        meta = source.meta
        return _Said(
            "sparse",
            meta,
            disk_id=usable(meta.get("disk-id")),
            disk_name=names.usable_name(meta.get("disk-name")),
            stream_id=usable(meta.get("stream-id")),
            backup_id=usable(meta.get("backup-id")),
            time=meta.get("date"),
            name=usable(meta.get("checkpoint-id")),
            parent_stream_id=usable(meta.get("parent-stream-id")),
            parent_name=usable(meta.get("since-backup-id")),
        )
    if isinstance(source, RbdDiffSource):
        return _Said("rbd-diff", {}, name=source.to_snapshot, parent_name=source.from_snapshot)
    described = source.meta
    return _Said(
        "virtnbdbackup",
        {},
        disk_name=names.usable_name(described.disk_name),
        time=described.date.isoformat() if described.date else None,
        name=described.checkpoint,
        parent_name=described.parent_checkpoint,
        note=virtnbdbackup.NOTE if described.incremental else None,
    )


def _times(
    options: ImportOptions, said: _Said, parent: tuple[Backup, Stream] | None
) -> tuple[datetime, datetime, str | None]:
    """The point's label, the earliest moment that it can be of, and a note."""
    if options.time is not None:
        return options.time, options.time, None
    found = store_point.time_of(said.time)
    if found is not None:
        return found.point, found.lo, found.note
    now = times.now()
    return now, parent[0].point if parent else store_point.LONG_AGO, _NO_TIME
