# SPDX-License-Identifier: GPL-2.0-or-later
"""Import of image files: each layer of a qcow2 chain, or an image of another format, becomes a point."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pitr.copier.protocols import Source
from pitr.endpoints.images.image_layer import ImageInfo, ImageLayerSource, image_info
from pitr.errors import UsageError
from pitr.jobs.imports import store_point
from pitr.jobs.imports.files_in_order import BackupFile, FileImport, import_files
from pitr.jobs.imports.store_point import ImportedPoint, OpenSource, SourceTime
from pitr.jobs.imports.vm_of_folder import vm_of_folder
from pitr.repository.names import usable_id

#: The file names of ovirt-engine-sdk's example backup_vm.py: time, checkpoint, disk and kind.
_BACKUP_VM = re.compile(r"(\d{12}|\d{14})\.([^.]+)\.([^.]+)\.(full|incremental)\.qcow2")

FORMATS: Final = ("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc")
#: The number of digits of a time without seconds.
_MINUTES: Final = 12
_TO_THE_MINUTE = "its time comes from the file's name and is exact to the minute"


def import_images(
    run: FileImport,
    paths: Sequence[Path],
    image_format: str,
    *,
    disk: str | None = None,
    given_times: Sequence[datetime] = (),
) -> list[ImportedPoint]:
    """Import images of one format; a qcow2 image that is based on another one becomes an incremental backup.

    A folder stands for its *.qcow2 files. Disk, checkpoint and time come from names of the kind that backup_vm.py
    writes. For other names give `disk`, and a time for each image in `given_times` (UTC). Raises UsageError, BusyError
    and FormatError.
    """
    paths = _files_of(paths, image_format)
    images = _read_images(paths, image_format)
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
                _image_opener(path, images[path].image_format, whole=parent is None),
                unique=name.checkpoint is not None,
            )
        )
    reason = f"imported from {image_format} images"
    return import_files(run, files, reason, _vm_names(run, files, paths[0].parent))


def _vm_names(run: FileImport, files: Sequence[BackupFile], folder: Path) -> Mapping[str, str]:
    """Return the VM that the repository knows to have one of the disks; else the VM of the folder."""
    ids = {file.disk_id for file in files if file.disk_id is not None}
    backup = run.repository.catalog.newest_with_disk(ids) if run.vm is None and ids else None
    if backup is not None:
        return {"vm-id": backup.vm.id, "vm-name": backup.vm.id}
    return vm_of_folder(folder)


def _files_of(paths: Sequence[Path], image_format: str) -> list[Path]:
    """Return the images; the *.qcow2 files of a folder in the order of their names. Raises UsageError."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob(f"*.{image_format}")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"no *.{image_format} files in {path}", "Name the images, oldest first.")
        files += inside
    return list(dict.fromkeys(files))


def _read_images(paths: Sequence[Path], image_format: str) -> dict[Path, ImageInfo]:
    """Read the header of each image. Raises UsageError if `paths` lack an image of a chain.

    The header of the image above tells the format of an image; nothing is guessed from its content.
    """
    images: dict[Path, ImageInfo] = {}
    # An image on top of others comes last; it tells the formats of the others.
    for path in reversed(paths):
        info: ImageInfo | None = image_info(path, image_format) if path not in images else None
        while info is not None and info.path not in images:
            images[info.path] = info
            below, below_format = info.backing, info.backing_format
            info = image_info(below, below_format) if below is not None and below_format is not None else None
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
    """Return the time of the image, with the notes on it. Raises UsageError without a time."""
    if given is not None:
        return SourceTime(given, given, None)
    time = _local_time(name.time) if name.time is not None else None
    if time is None:
        raise UsageError(
            f"the file name {path.name} does not tell the time", "Give one --time for each file."
        )
    to_the_minute = _TO_THE_MINUTE if len(name.time or "") == _MINUTES else None
    return SourceTime(time.lo, time.point, store_point.join_notes((time.note, to_the_minute)))


def _local_time(text: str) -> SourceTime | None:
    """Read the local time in a file's name: 14 digits, or 12 without seconds (backup_vm.py before 2022)."""
    try:
        form = "%Y%m%d%H%M" if len(text) == _MINUTES else "%Y%m%d%H%M%S"
        return store_point.time_of(datetime.strptime(text, form).isoformat())
    except ValueError:
        return None


def _image_opener(path: Path, image_format: str, *, whole: bool) -> OpenSource:
    @contextmanager
    def opened() -> Iterator[Source]:
        with ImageLayerSource(path, image_format, whole=whole) as source:
            yield source

    return opened
