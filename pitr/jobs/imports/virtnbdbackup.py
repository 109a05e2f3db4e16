# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of a folder that virtnbdbackup wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pitr.copier.protocols import Source
from pitr.copier.streamed import StreamedSource
from pitr.endpoints.images.image_layer import ImageLayerSource
from pitr.endpoints.streams.input import open_input
from pitr.endpoints.streams.virtnbdbackup import VirtnbdbackupSource
from pitr.errors import FormatError, UsageError
from pitr.formats import virtnbdbackup
from pitr.jobs.imports import store_point
from pitr.jobs.imports.files_in_order import BackupFile, FileImport, import_files
from pitr.jobs.imports.store_point import ImportedPoint, OpenSource, SourceTime
from pitr.jobs.imports.vm_of_folder import vm_of_folder
from pitr.text import printable

_PARTIAL: Final = ".partial"
_STREAM: Final = b"meta "
#: The digits of a time in seconds that every system can represent.
_MOST_DIGITS: Final = 10
_IMAGE_TIME: Final = "its time is the time at which the image file was last changed"


@dataclass(frozen=True, slots=True)
class _File:
    """One file. `disk`, `level` (full, inc, diff, copy) and `ident` (a checkpoint or a time) come from its name.

    A plain image has no `meta`, nor has a partial file without its beginning.
    """

    path: Path
    disk: str
    level: str
    meta: virtnbdbackup.Meta | None
    ident: str = ""

    @property
    def starts_incrementals(self) -> bool:
        """Whether later files can be based on this one: a differential backup creates no checkpoint."""
        return self.meta is not None and self.meta.creates_checkpoint and self.level != "diff"

    @property
    def date(self) -> datetime:
        """The local time of the backup, without a zone."""
        if self.meta is not None and self.meta.date is not None:
            return self.meta.date.replace(tzinfo=None)
        seconds = int(self.ident) if self.ident.isdecimal() and len(self.ident) <= _MOST_DIGITS else 0
        return datetime.fromtimestamp(seconds)


def import_virtnbdbackup(run: FileImport, folder: Path) -> list[ImportedPoint]:
    """Import all backups of the `*.data` files in a folder, chained by their checkpoints.

    A `*.partial` file, left by a run that was stopped, becomes a missing disk of its point. Raises UsageError before
    it imports anything if a link of a chain is missing; FormatError.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "Name the folder with virtnbdbackup's *.data files.")
    files = [_read(path, path.name) for path in sorted(folder.glob("*.data"))]
    if not files:
        raise UsageError(f"no *.data files in {folder}", "Name the folder that virtnbdbackup wrote to.")
    by_checkpoint = _by_checkpoint(files)
    unfinished = [_partial(path) for path in partial_files(folder)]
    keys = _keys(files, unfinished)
    starts = [file for file in files if file.meta is not None and not file.meta.incremental]
    found = [_backup_file(file, keys[file.path], by_checkpoint, starts) for file in files]
    found += [_unfinished(file, keys[file.path]) for file in unfinished]
    return import_files(run, found, "imported from virtnbdbackup", vm_of_folder(folder))


def partial_files(folder: Path) -> list[Path]:
    """Return the files that a stopped run of virtnbdbackup left incomplete."""
    return sorted(folder.glob(f"*.data{_PARTIAL}"))


def _read(path: Path, name: str) -> _File:
    """Read the beginning of a file. `name` is its name without .partial."""
    named = _named(path, name)
    with open_input(str(path)) as stream:
        is_stream = stream.read(len(_STREAM)) == _STREAM
    if not is_stream and named.level not in ("full", "copy"):
        raise FormatError(f"{path.name}: the file is neither a stream of virtnbdbackup nor a whole image")
    meta = _meta(path) if is_stream else None
    return replace(named, disk=meta.disk_name if meta is not None else named.disk, meta=meta)


def _by_checkpoint(files: Sequence[_File]) -> dict[tuple[str, str], Path]:
    """Return the files by the names of their disk and checkpoint. Raises UsageError for two of the same."""
    by_checkpoint: dict[tuple[str, str], Path] = {}
    for file in files:
        if not file.starts_incrementals or file.meta is None:
            continue
        other = by_checkpoint.setdefault((file.disk, file.meta.checkpoint), file.path)
        if other != file.path:
            raise UsageError(
                f"{other.name} and {file.path.name} are both of disk {printable(file.disk)} at checkpoint "
                f"{printable(file.meta.checkpoint)}",
                "Put backups that do not belong together into different folders.",
            )
    return by_checkpoint


def _keys(files: Sequence[_File], unfinished: Sequence[_File]) -> dict[Path, str]:
    """Return a key for each file; files of one run have the same key.

    Full and incremental backups of one run have the name of their checkpoint. A differential run has none: it begins
    with the first file of a disk that the run before it has already, in the order of the times.
    """
    whole = {file.meta.checkpoint for file in files if file.meta is not None and not file.meta.incremental}
    first = whole.pop() if len(whole) == 1 else ""
    keys: dict[Path, str] = {}
    beside: list[_File] = []
    for file in (*files, *unfinished):
        if file.level == "diff" or (file.meta is not None and not file.starts_incrementals):
            beside.append(file)
        elif file.meta is not None:
            keys[file.path] = file.meta.checkpoint
        else:
            keys[file.path] = file.ident or first
    run: set[str] = set()
    number = 0
    for file in sorted(beside, key=lambda file: (file.date, file.path)):
        if file.disk in run:
            run, number = set(), number + 1
        run.add(file.disk)
        keys[file.path] = f"differential {number}"
    return keys


def _partial(path: Path) -> _File:
    """Return what a partial file tells: the names in its meta header, or those in its own name without one."""
    name = path.name.removesuffix(_PARTIAL)
    try:
        return _read(path, name)
    except FormatError:
        return _named(path, name)


def _named(path: Path, name: str) -> _File:
    """Return what a file's name DISK.LEVEL[.IDENT].data tells."""
    disk, _, rest = name.removesuffix(".data").partition(".")
    level, _, ident = rest.partition(".")
    return _File(path, disk, level, None, ident)


def _backup_file(
    file: _File, key: str, by_checkpoint: Mapping[tuple[str, str], Path], starts: Sequence[_File]
) -> BackupFile:
    if file.meta is None:
        return _image_file(file, key, starts)
    path, meta, parent = file.path, file.meta, None
    if meta.incremental:
        parent = by_checkpoint.get((meta.disk_name, meta.parent_checkpoint or ""))
        if parent is None:
            raise UsageError(
                f"{path.name} is based on checkpoint {printable(meta.parent_checkpoint or 'none')}, but no file of "
                f"disk {printable(meta.disk_name)} is of that checkpoint",
                "Its chain is incomplete; nothing was imported. Add the missing file.",
            )
    time = _time(meta)
    if time is None:
        raise FormatError(f"{path.name} does not tell its time")
    return BackupFile(
        path,
        key,
        parent,
        None,
        meta.disk_name,
        time,
        meta.checkpoint if file.starts_incrementals else None,
        store_point.join_notes((time.note, virtnbdbackup.NOTE if meta.incremental else None)),
        _stream_opener(path),
        unique=True,
    )


def _image_file(file: _File, key: str, starts: Sequence[_File]) -> BackupFile:
    """Return a plain image. Beside the streams of one full backup it has their time, else the time of its file."""
    of_run = [time for start in starts if start.meta and key and (time := _time(start.meta)) is not None]
    if of_run:
        newest = max(of_run, key=lambda time: time.point)
        time = replace(newest, lo=min(time.lo for time in of_run))
    else:
        changed = datetime.fromtimestamp(file.path.stat().st_mtime, UTC)
        time = SourceTime(changed, changed, _IMAGE_TIME)
    checkpoint = key if key and of_run else None
    return BackupFile(
        file.path,
        key or f"image {file.level}",
        None,
        None,
        file.disk,
        time,
        checkpoint,
        time.note,
        _image_opener(file.path),
        unique=bool(of_run),
    )


def _unfinished(file: _File, key: str) -> BackupFile:
    changed = datetime.fromtimestamp(file.path.stat().st_mtime, UTC)
    time = SourceTime(changed, changed, None)
    opener = _stream_opener(file.path)
    return BackupFile(file.path, key, None, None, file.disk, time, None, None, opener, unfinished=True)


def _time(meta: virtnbdbackup.Meta) -> SourceTime | None:
    return store_point.time_of(meta.date.isoformat() if meta.date else None)


def _meta(path: Path) -> virtnbdbackup.Meta:
    with open_input(str(path)) as stream:
        try:
            return VirtnbdbackupSource(stream).meta
        except FormatError as error:
            raise FormatError(f"{path.name}: {error.message}") from None


def _stream_opener(path: Path) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[StreamedSource]:
        with open_input(str(path)) as stream:
            yield VirtnbdbackupSource(stream)

    return opened


def _image_opener(path: Path) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[Source]:
        with ImageLayerSource(path, "raw", whole=True) as source:
            yield source

    return opened
