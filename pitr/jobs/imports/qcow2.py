# SPDX-License-Identifier: GPL-2.0-or-later
"""Importing qcow2 images: the layers of a chain become points."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Source
from pitr.endpoints.images.qcow2_layer import ImageInfo, Qcow2LayerSource, image_info
from pitr.errors import UsageError
from pitr.jobs.imports import store_point
from pitr.jobs.imports.files_in_order import BackupFile, Done, import_files
from pitr.jobs.imports.store_point import OpenSource, SourceTime
from pitr.model import Backup
from pitr.reporting import Progress
from pitr.repository import Repository, names

#: As ovirt-engine-sdk's example backup_vm.py names its files.
_BACKUP_VM = re.compile(r"(\d{12})\.([^.]+)\.([^.]+)\.(full|incremental)\.qcow2")


_TO_THE_MINUTE = "its time is to the minute, from the file's name"


def import_qcow2(
    repository: Repository,
    paths: Sequence[Path],
    vm: str | None,
    *,
    disk: str | None = None,
    given: Sequence[datetime] = (),
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
    done: Done,
) -> list[Backup]:
    """Import qcow2 images: one that stands on another is an incremental backup on it.

    Disk, checkpoint and time come from names as backup_vm.py gives them; for other names `disk` and a time for each
    in `given` are needed. Raises UsageError and FormatError.
    """
    known: dict[Path, ImageInfo] = {}
    for path in paths:
        info: ImageInfo | None = image_info(path)
        while info is not None and info.path not in known:
            known[info.path] = info
            info = image_info(info.backing) if info.backing is not None else None
    left_out = [path for path in known if path not in paths]
    if left_out:
        raise UsageError(
            f"{left_out[0]} belongs to the chain and is not named", "Name all images, from the oldest on."
        )
    last: dict[str | None, Path] = {}
    files: list[BackupFile] = []
    for number, path in enumerate(paths):
        name = _BACKUP_VM.fullmatch(path.name)
        disk_id = names.usable_id(name[3]) if name else None
        parent = known[path].backing
        if parent is None and name and name[4] == "incremental":
            # Written without a backing file: it stands on the file before it that is of the same disk.
            parent = last.get(disk_id)
            if parent is None:
                raise UsageError(
                    f"{path.name} is incremental, and nothing that it stands on is named before it"
                )
        last[disk_id] = path
        note = None
        if given:
            time = SourceTime(given[number], given[number], None)
        elif name and (found := _minute(name[1])):
            time, note = found, _TO_THE_MINUTE
        else:
            raise UsageError(
                f"the name of {path.name} does not tell its time", "Give one --time for each file."
            )
        if disk is None and disk_id is None:
            raise UsageError(f"the name of {path.name} does not tell its disk", "Name it with --disk.")
        checkpoint = name[2] if name else None
        files.append(
            BackupFile(
                path,
                f"{name[1]}.{checkpoint}" if name else str(path),
                parent,
                disk_id,
                disk or disk_id or "",
                time,
                checkpoint,
                store_point.notes((time.note, note)),
                _image_opener(path, whole=parent is None),
            )
        )
    return import_files(repository, vm, files, "imported from qcow2 images", workers, progress, done)


def _image_opener(path: Path, *, whole: bool) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[Source]:
        with Qcow2LayerSource(path, whole=whole) as source:
            yield source

    return opened


def _minute(text: str) -> SourceTime | None:
    try:
        return store_point.time_of(datetime.strptime(text, "%Y%m%d%H%M").isoformat())
    except ValueError:
        return None
