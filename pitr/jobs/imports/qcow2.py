# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of qcow2 images: each layer of a chain becomes a point."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pitr.copier.protocols import Source
from pitr.endpoints.images.qcow2_layer import ImageInfo, Qcow2LayerSource, image_info
from pitr.errors import UsageError
from pitr.jobs.imports import store_point
from pitr.jobs.imports.files_in_order import BackupFile, FileImport, import_files
from pitr.jobs.imports.store_point import OpenSource, SourceTime
from pitr.model import Backup
from pitr.repository.names import usable_id

#: The file names of ovirt-engine-sdk's example backup_vm.py: time, checkpoint, disk and kind.
_BACKUP_VM = re.compile(r"(\d{12})\.([^.]+)\.([^.]+)\.(full|incremental)\.qcow2")

_TO_THE_MINUTE = "its time comes from the file's name and is exact to the minute"


def import_qcow2(
    run: FileImport, paths: Sequence[Path], *, disk: str | None = None, given_times: Sequence[datetime] = ()
) -> list[Backup]:
    """Import qcow2 images; an image that is based on another one becomes an incremental backup.

    Disk, checkpoint and time come from names of the kind that backup_vm.py writes. For other names give `disk`, and a
    time for each image in `given_times` (UTC). Raises UsageError and FormatError.
    """
    images = _read_images(paths)
    previous: dict[str | None, Path] = {}
    files: list[BackupFile] = []
    for number, path in enumerate(paths):
        name = _Name.of(path)
        parent = images[path].backing
        if parent is None and name.incremental:
            # Written without a backing file: it is based on the previous file of the same disk.
            parent = previous.get(name.disk_id)
            if parent is None:
                raise UsageError(
                    f"{path.name} is incremental, but no image before it is of the same disk",
                    "Name the image that it is based on first.",
                )
        previous[name.disk_id] = path
        time = _time(name, path, given_times[number] if given_times else None)
        if disk is None and name.disk_id is None:
            raise UsageError(f"the file name {path.name} does not tell the disk", "Name it with --disk.")
        files.append(
            BackupFile(
                path,
                name.key,
                parent,
                name.disk_id,
                disk or name.disk_id or "",
                time,
                name.checkpoint,
                time.note,
                _image_opener(path, whole=parent is None),
            )
        )
    return import_files(run, files, "imported from qcow2 images")


def _read_images(paths: Sequence[Path]) -> dict[Path, ImageInfo]:
    """Read the header of each image. Raises UsageError if `paths` lack an image of a chain."""
    images: dict[Path, ImageInfo] = {}
    for path in paths:
        info: ImageInfo | None = image_info(path)
        while info is not None and info.path not in images:
            images[info.path] = info
            info = image_info(info.backing) if info.backing is not None else None
    missing = [path for path in images if path not in paths]
    if missing:
        raise UsageError(
            f"{missing[0]} belongs to the chain but is not named", "Name all images, oldest first."
        )
    return images


@dataclass(frozen=True, slots=True)
class _Name:
    """What the name of an image tells; None for all that other names than backup_vm.py's do not tell."""

    key: str
    time: str | None = None
    checkpoint: str | None = None
    disk_id: str | None = None
    incremental: bool = False

    @classmethod
    def of(cls, path: Path) -> _Name:
        match = _BACKUP_VM.fullmatch(path.name)
        if match is None:
            return cls(str(path))
        time, checkpoint, disk_id, kind = match.groups()
        return cls(f"{time}.{checkpoint}", time, checkpoint, usable_id(disk_id), kind == "incremental")


def _time(name: _Name, path: Path, given: datetime | None) -> SourceTime:
    """Return the time of the image, with the notes on it. Raises UsageError if there is none."""
    if given is not None:
        return SourceTime(given, given, None)
    time = _minute(name.time) if name.time is not None else None
    if time is None:
        raise UsageError(
            f"the file name {path.name} does not tell the time", "Give one --time for each file."
        )
    return SourceTime(time.lo, time.point, store_point.join_notes((time.note, _TO_THE_MINUTE)))


def _minute(text: str) -> SourceTime | None:
    try:
        return store_point.time_of(datetime.strptime(text, "%Y%m%d%H%M").isoformat())
    except ValueError:
        return None


def _image_opener(path: Path, *, whole: bool) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[Source]:
        with Qcow2LayerSource(path, whole=whole) as source:
            yield source

    return opened
