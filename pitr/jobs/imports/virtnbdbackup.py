# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of a folder that virtnbdbackup wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pitr.copier.streamed import StreamedSource
from pitr.endpoints.streams.input import open_input
from pitr.endpoints.streams.virtnbdbackup import VirtnbdbackupSource
from pitr.errors import FormatError, UsageError
from pitr.formats import virtnbdbackup
from pitr.jobs.imports import store_point
from pitr.jobs.imports.files_in_order import BackupFile, FileImport, import_files
from pitr.jobs.imports.store_point import OpenSource
from pitr.model import Backup
from pitr.text import printable


def import_virtnbdbackup(run: FileImport, folder: Path) -> list[Backup]:
    """Import all backups of the `*.data` files in a folder, chained by their checkpoints.

    Raises UsageError before it imports anything if a link of a chain is missing; FormatError.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "Name the folder with virtnbdbackup's *.data files.")
    paths = sorted(folder.glob("*.data"))
    if not paths:
        raise UsageError(f"no *.data files in {folder}", "Name the folder that virtnbdbackup wrote to.")
    metas = {path: _meta(path) for path in paths}
    by_checkpoint = _by_checkpoint(metas)
    files = [_backup_file(path, meta, by_checkpoint) for path, meta in metas.items()]
    return import_files(run, files, "imported from virtnbdbackup")


def _by_checkpoint(metas: Mapping[Path, virtnbdbackup.Meta]) -> dict[tuple[str, str], Path]:
    """Return the files by the names of their disk and checkpoint. Raises UsageError for two of the same."""
    files: dict[tuple[str, str], Path] = {}
    for path, meta in metas.items():
        other = files.setdefault((meta.disk_name, meta.checkpoint), path)
        if other != path:
            raise UsageError(
                f"{other.name} and {path.name} are both of disk {printable(meta.disk_name)} at checkpoint "
                f"{printable(meta.checkpoint)}",
                "Put backups that do not belong together into different folders.",
            )
    return files


def _backup_file(
    path: Path, meta: virtnbdbackup.Meta, by_checkpoint: Mapping[tuple[str, str], Path]
) -> BackupFile:
    parent = None
    if meta.incremental:
        parent = by_checkpoint.get((meta.disk_name, meta.parent_checkpoint or ""))
        if parent is None:
            raise UsageError(
                f"{path.name} is based on checkpoint {printable(meta.parent_checkpoint or 'none')}, but no file of "
                f"disk {printable(meta.disk_name)} is of that checkpoint",
                "Its chain is incomplete; nothing was imported. Add the missing file.",
            )
    time = store_point.time_of(meta.date.isoformat() if meta.date else None)
    if time is None:
        raise FormatError(f"{path.name} does not tell its time")
    return BackupFile(
        path,
        meta.checkpoint,
        parent,
        None,
        meta.disk_name,
        time,
        meta.checkpoint,
        store_point.join_notes((time.note, virtnbdbackup.NOTE if meta.incremental else None)),
        _stream_opener(path),
    )


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
