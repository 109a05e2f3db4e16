# SPDX-License-Identifier: GPL-2.0-or-later
"""Restore of one disk from one stream, without a repository."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pitr.copier import Copied
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.pour import check_whole, pour
from pitr.endpoints.images.qcow2_file import Qcow2FileSink
from pitr.endpoints.images.qcow2_size import qcow2_size
from pitr.endpoints.images.raw_file import RawFileSink
from pitr.endpoints.streams.detect import KnownSource, open_stream
from pitr.errors import PitrError, UsageError
from pitr.extents import ExtentMap
from pitr.jobs.file_names import safe
from pitr.jobs.restore.choice import ImageFormat, ToFiles
from pitr.jobs.restore.storage_domains import domain_named, list_domains
from pitr.jobs.restore.uploading import remove_new_disk
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Engine,
    NewDisk,
    StorageDomain,
    active_data_domains,
    create_disk,
    is_alias,
    start_upload,
    valid_alias,
)
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.reporting import Progress
from pitr.repository.names import usable_name
from pitr.system.target_path import check_image_target


@dataclass(frozen=True, slots=True)
class StreamRestored:
    """One disk that was restored from a stream; `target` is the new disk's id or the file. Bytes are of the disk."""

    name: str
    target: str
    size: int
    bytes_written: int
    bytes_zeroed: int
    bytes_skipped: int
    duration_s: float


def stream_to_file(
    stream: BinaryIO,
    choice: ToFiles,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> StreamRestored:
    """Restore a stream of a whole disk to the new image file `choice.path`, or to a file in this folder.

    Raises FormatError, UsageError if the file exists already, PitrError.
    """
    started_at = time.monotonic()
    if not choice.is_folder:
        # Refuse a target that exists before the stream is read: its size is still unknown.
        check_image_target(Path(choice.path), 0, overwrite_device=choice.overwrite_device)
    source = _open_whole(stream)
    path = _target_file(choice, source)
    sink = (
        RawFileSink(path, source.size, overwrite_device=choice.overwrite_device)
        if choice.image_format is ImageFormat.RAW
        else Qcow2FileSink(path, source.size)
    )
    try:
        copied = pour(source, sink, workers=workers, progress=progress)
    except BaseException:
        sink.abort()
        raise
    return _restored(_disk_name(source) or path.stem, str(path), copied, started_at)


def stream_to_disk(
    stream: BinaryIO,
    engine: Engine,
    *,
    name: str | None = None,
    storage_domain: str | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> StreamRestored:
    """Restore a stream of a whole disk to a new disk; remove the disk again on an error.

    The amount of data is unknown before the stream ends, so on block storage the disk starts at its full size. Raises
    FormatError, UsageError, EngineError and ImageioError.
    """
    started_at = time.monotonic()
    source = _open_whole(stream)
    chosen = name or valid_alias(_disk_name(source) or "")
    if name is None and _disk_name(source) is None:
        raise UsageError("the stream does not name its disk", "Name the new disk with --disk.")
    if not is_alias(chosen):
        raise UsageError(
            f"the engine does not accept the alias {chosen!r}",
            "Use letters, digits, '.', '_' and '-', and at most 255 characters.",
        )
    domain = _choose_domain(active_data_domains(engine), storage_domain)
    whole = ExtentMap.of([(0, source.size, False)] if source.size else [])
    disk = create_disk(
        engine,
        NewDisk(
            name=chosen,
            size=source.size,
            format="cow",
            sparse=True,
            storage_domain_id=domain.id,
            backup_enabled=True,
            description="Restored by pitr from a stream",
            initial_size=qcow2_size(source.size, whole) if domain.is_block else None,
        ),
    )
    try:
        with start_upload(engine, disk.id) as transfer:
            sink = ImageioSink(imageio_address(engine, transfer), reads_zero=True)
            copied = pour(source, sink, workers=workers, progress=progress)
    except BaseException as error:
        problem = remove_new_disk(engine, disk.id)
        if problem is not None:
            error.add_note(problem)
        raise
    return _restored(chosen, disk.id, copied, started_at)


def _target_file(choice: ToFiles, source: KnownSource) -> Path:
    """Return the image file. In a folder it has the name of the disk."""
    if not choice.is_folder:
        return Path(choice.path)
    name = safe(_disk_name(source) or "disk") or "disk"
    folder = Path(choice.path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PitrError(f"cannot create the folder {folder}: {error.strerror}") from error
    return folder / f"{name}.{choice.image_format}"


def _restored(name: str, target: str, copied: Copied, started_at: float) -> StreamRestored:
    return StreamRestored(
        name,
        target,
        copied.size,
        copied.written,
        copied.zeroed,
        copied.skipped,
        time.monotonic() - started_at,
    )


def _open_whole(stream: BinaryIO) -> KnownSource:
    source = open_stream(stream)
    check_whole(source)
    return source


def _disk_name(source: KnownSource) -> str | None:
    meta: Any = getattr(source, "meta", None)
    if isinstance(meta, dict):
        return usable_name(meta.get("disk-name"))
    return usable_name(getattr(meta, "disk_name", None))


def _choose_domain(usable: list[StorageDomain], wanted: str | None) -> StorageDomain:
    if wanted is not None:
        return domain_named(usable, wanted)
    if len(usable) == 1:
        return usable[0]
    raise UsageError(
        "the stream does not name the storage domain of its disk",
        f"Choose one with --storage-domain: {list_domains(usable)}.",
    )
