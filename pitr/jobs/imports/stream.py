# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of streams: each becomes a point with one disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, BinaryIO, cast

from pitr import times
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.endpoints.streams.detect import InputFormat, KnownSource, open_history, open_stream
from pitr.endpoints.streams.input import Remembered
from pitr.endpoints.streams.rbd_diff import RbdDiffSource
from pitr.endpoints.streams.sparse import SparseStreamSource
from pitr.errors import FormatError, PitrError, UsageError
from pitr.formats import virtnbdbackup
from pitr.jobs.imports import identify, recognize, returned_blob, store_point
from pitr.jobs.imports.compared import with_base
from pitr.jobs.imports.store_point import DiskToImport, ImportedPoint, PointToImport
from pitr.model import Backup, DiskSettings, Stream, VMName
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.repository.catalog import Catalog
from pitr.repository.names import usable_id, usable_name
from pitr.text import printable

_ONTO_AND_WHOLE = "--onto goes with incremental streams, but this stream holds the whole disk"
_NO_TIME = "the stream does not tell its time: the point has the time of the import"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The VM and the disk (names or ids), the time of the point, and the point that the stream is based on.

    `before` is the parent of an incremental stream that does not name one: the point of the stream before it. If the
    stream `continues` it, they are parts of one file. `full`: store a whole disk without a comparison.
    """

    vm: str | None = None
    disk: str | None = None
    time: datetime | None = None
    onto: Backup | None = None
    before: Backup | None = None
    continues: bool = False
    format: InputFormat | None = None
    workers: int = DEFAULT_WORKERS
    full: bool = False


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


def import_streams(
    repository: Repository,
    stream: BinaryIO,
    options: ImportOptions,
    *,
    progress: Progress | None = None,
) -> list[ImportedPoint]:
    """Import one stream as `import_stream` does; the whole history of an image of `rbd export` makes several points."""
    remembered = Remembered(stream)
    history = open_history(cast(BinaryIO, remembered))
    if history is None:
        return [import_stream(repository, remembered.again(), options, progress=progress)]
    if options.format not in (None, "rbd-diff"):
        raise FormatError(f"the format of the stream is rbd-diff, not {options.format}")
    remembered.forget()
    points: list[ImportedPoint] = []
    for source in history:
        if points:
            options = replace(options, onto=None, before=points[-1].backup, continues=True)
        try:
            points.append(_import_source(repository, source, _describe(source), options, progress))
        except PitrError as error:
            error.add_note(f"points of the image's snapshots before it: {len(points)}")
            raise
    return points


def import_stream(
    repository: Repository,
    stream: BinaryIO,
    options: ImportOptions,
    *,
    progress: Progress | None = None,
) -> ImportedPoint:
    """Read one stream to its end, commit it as a point, and return the point. The caller closes `stream`.

    An externally stored blob of a known point is stored for that point again. A stream that the repository holds
    already adds nothing. Raises FormatError if the stream is incomplete or invalid, and UsageError if neither the
    stream nor `options` name its VM, disk or parent.
    """
    remembered = Remembered(stream)
    source = open_stream(cast(BinaryIO, remembered), options.format)
    description = _describe(source)
    if description.stream_id is not None:
        known = returned_blob.find_external(repository.catalog, description.stream_id)
        if known is not None:
            _check_options(options, *known)
            if repository.is_here(known[1]):
                _read_to_the_end(source)
                return ImportedPoint(known[0], new=False)
            returned_blob.store_external(repository, *known, remembered.again(), progress)
            return ImportedPoint(known[0], new=True)
    remembered.forget()
    return _import_source(repository, source, description, options, progress)


def _import_source(
    repository: Repository,
    source: KnownSource,
    description: _Description,
    options: ImportOptions,
    progress: Progress | None,
) -> ImportedPoint:
    known = _known(repository.catalog, description, options)
    if known is not None:
        _check_known(known, source, description, options)
        _read_to_the_end(source)
        return ImportedPoint(known[0], new=False)
    vm = identify.choose_vm(repository.catalog, options.vm, description.meta)
    with repository.lock_vm(vm):
        point = _point(repository.catalog, vm, source, description, options)
        return store_point.store(
            repository,
            with_base(repository, point),
            [lambda: nullcontext(source)],
            workers=options.workers,
            progress=progress,
        )


def _read_to_the_end(source: KnownSource) -> None:
    """Read a stream that adds nothing, so that the program that writes it does not fail. Raises FormatError."""
    for _ in source.passing():
        pass


def _known(
    catalog: Catalog, description: _Description, options: ImportOptions
) -> tuple[Backup, Stream] | None:
    """Return the stream that the ids of the source name, if the repository holds it.

    A stream's id belongs to one VM. A backup's id says nothing about another VM that `options` name.
    """
    if description.stream_id is not None:
        return recognize.stream_with_id(catalog, description.stream_id)
    if description.backup_id is None or description.disk_id is None:
        return None
    known = recognize.disk_of_backup(catalog, description.backup_id, description.disk_id)
    if known is None or options.vm not in (None, known[0].vm.id, known[0].vm.name):
        return None
    return known if options.disk in (None, known[1].disk_id, known[1].name) else None


def _check_known(
    known: tuple[Backup, Stream], source: KnownSource, description: _Description, options: ImportOptions
) -> None:
    """Raise UsageError if `options` contradict what the repository knows of the stream."""
    backup, stream = known
    if options.vm not in (None, backup.vm.id, backup.vm.name) or options.disk not in (
        None,
        stream.disk_id,
        stream.name,
    ):
        raise UsageError(
            f"the stream is in the repository already, in backup {backup.backup_id} of VM "
            f"{printable(backup.vm.name)}, disk {printable(stream.name)}",
            "Leave out --vm and --disk.",
        )
    if options.onto is None:
        return
    if source.whole:
        raise UsageError(_ONTO_AND_WHOLE)
    since = description.parent_name or backup.parent_id
    if since not in (options.onto.backup_id, options.onto.checkpoint_id):
        raise _wrong_onto(f"backup {since}", options.onto)


def _point(
    catalog: Catalog, vm: VMName, source: KnownSource, description: _Description, options: ImportOptions
) -> PointToImport:
    """Return the point that the stream makes. Raises UsageError."""
    disk = identify.choose_disk(catalog, vm, options.disk, description.disk_id, description.disk_name)
    backup_id = identify.free_backup_id(catalog, description.backup_id)
    parent = _parent(catalog, vm, disk.id, description, options) if not source.whole else None
    if source.whole and options.onto is not None:
        raise UsageError(_ONTO_AND_WHOLE)
    point, lo, time_note = _times(options, description, parent)
    no_settings = None if disk.settings else store_point.NO_SETTINGS
    new_disk = DiskToImport(
        disk_id=disk.id,
        name=disk.name,
        parent=parent,
        settings=disk.settings or DiskSettings(),
        note=store_point.join_notes((description.note, time_note, no_settings)),
        stream_id=description.stream_id,
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
        dated=time_note != _NO_TIME,
        full=options.full,
    )


def _parent(
    catalog: Catalog, vm: VMName, disk_id: str, description: _Description, options: ImportOptions
) -> tuple[Backup, Stream]:
    """Return the disk at the point that an incremental stream is based on.

    The base that the stream names decides; `options.onto` must agree with it. Raises UsageError.
    """
    kind = "snapshot" if description.format == "rbd-diff" else "point"
    onto, name = options.onto, description.parent_name
    if description.parent_stream_id is not None:
        parent = identify.parent_by_stream(catalog, vm, disk_id, description.parent_stream_id)
        if onto is not None and parent[0].backup_id != onto.backup_id:
            raise _wrong_onto(f"backup {parent[0].backup_id}", onto)
        return parent
    if onto is not None:
        known = name is not None and identify.holds_named(catalog, vm, disk_id, name)
        unnamed = onto.checkpoint_id is None and not known
        if name is not None and name not in (onto.backup_id, onto.checkpoint_id) and not unnamed:
            raise _wrong_onto(f"{kind} {printable(name)}", onto)
        return identify.parent_at(onto, disk_id)
    if options.before is not None and (name is None or _continues(options, options.before, name)):
        return identify.parent_at(options.before, disk_id)
    if name is not None:
        return identify.parent_named(catalog, vm, disk_id, name, kind)
    raise UsageError(
        "the stream is incremental and does not name the point that it is based on",
        "Name that point with --onto.",
    )


def _continues(options: ImportOptions, before: Backup, name: str) -> bool:
    """Return whether the stream based on `name` follows `before`; some names of snapshots are not storable."""
    return options.continues and before.checkpoint_id == usable_id(name)


def _wrong_onto(base: str, onto: Backup) -> UsageError:
    return UsageError(
        f"the stream is based on {base}, not on backup {onto.backup_id} of --onto",
        "Leave --onto out: pitr finds the base that the stream names. If the repository does not hold it, import it "
        "first.",
    )


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
        name=described.checkpoint if described.creates_checkpoint else None,
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
