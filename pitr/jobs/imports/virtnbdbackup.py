# SPDX-License-Identifier: GPL-2.0-or-later
"""Importing folders of virtnbdbackup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.streamed import StreamedSource
from pitr.endpoints.streams.input import open_input
from pitr.endpoints.streams.virtnbdbackup import VirtnbdbackupSource
from pitr.errors import FormatError, UsageError
from pitr.formats import virtnbdbackup
from pitr.jobs.imports import store_point
from pitr.jobs.imports.files_in_order import BackupFile, Done, import_files
from pitr.jobs.imports.store_point import OpenSource
from pitr.model import Backup
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.text import printable


def import_virtnbdbackup(
    repository: Repository,
    folder: Path,
    vm: str | None,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    done: Done,
) -> list[Backup]:
    """Import all backups of the `*.data` files in a folder. Their chain is what their checkpoints say.

    Raises UsageError where a link of it is missing, before anything is imported; FormatError.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "Name the folder with virtnbdbackup's *.data files.")
    paths = sorted(folder.glob("*.data"))
    if not paths:
        raise UsageError(f"there are no *.data files in {folder}")
    metas = {path: _meta(path) for path in paths}
    by_name: dict[tuple[str, str], Path] = {}
    for path, meta in metas.items():
        before = by_name.setdefault((meta.disk_name, meta.checkpoint), path)
        if before != path:
            raise UsageError(
                f"{before.name} and {path.name} are both of disk {printable(meta.disk_name)} at checkpoint "
                f"{printable(meta.checkpoint)}",
                "Put backups that do not belong together into different folders.",
            )
    files: list[BackupFile] = []
    for path, meta in metas.items():
        parent = None
        if meta.incremental:
            parent = by_name.get((meta.disk_name, meta.parent_checkpoint or ""))
            if parent is None:
                raise UsageError(
                    f"{path.name} stands on checkpoint {printable(meta.parent_checkpoint or 'none')}, of which there "
                    f"is no file for disk {printable(meta.disk_name)}",
                    "Its chain is not whole; nothing was imported.",
                )
        time = store_point.time_of(meta.date.isoformat() if meta.date else None)
        if time is None:
            raise FormatError(f"{path.name} does not tell its time")
        files.append(
            BackupFile(
                path,
                meta.checkpoint,
                parent,
                None,
                meta.disk_name,
                time,
                meta.checkpoint,
                store_point.notes((time.note, virtnbdbackup.NOTE if meta.incremental else None)),
                _stream_opener(path),
            )
        )
    return import_files(repository, vm, files, "imported from virtnbdbackup", workers, progress, done)


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
