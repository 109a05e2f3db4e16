# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring one disk from one stream that is read front to back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.pour import check_whole, pour
from pitr.copier.protocols import Sink
from pitr.endpoints.images.qcow2_file import Qcow2FileSink
from pitr.endpoints.images.raw_file import RawFileSink
from pitr.endpoints.streams.detect import KnownSource, open_stream
from pitr.errors import NoSuchDisk, PitrError, UsageError
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Engine,
    NewDisk,
    StorageDomain,
    active_data_domains,
    create_disk,
    delete_disk,
    start_upload,
)
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.reporting import Progress
from pitr.repository.names import usable_name


@dataclass(frozen=True, slots=True)
class StreamRestored:
    """One stream that was restored; `target` is the new disk's id or the file. Bytes are of the disk."""

    name: str
    target: str
    size: int
    bytes_written: int
    bytes_zeroed: int
    bytes_skipped: int
    duration_s: float


def stream_to_file(
    stream: BinaryIO,
    path: Path,
    image_format: Literal["raw", "qcow2"],
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> StreamRestored:
    """Restore a stream that holds a whole disk to a new image file. Raises FormatError, UsageError, PitrError."""
    started_at = time.monotonic()
    source = _whole(stream)
    make = RawFileSink if image_format == "raw" else Qcow2FileSink
    sink = make(path, source.size)
    try:
        copied = pour(source, sink, workers=workers, progress=progress)
    except BaseException:
        sink.abort()
        raise
    name = _name(source) or path.stem
    return StreamRestored(
        name,
        str(path),
        copied.size,
        copied.written,
        copied.zeroed,
        copied.skipped,
        time.monotonic() - started_at,
    )


def stream_to_disk(
    stream: BinaryIO,
    engine: Engine,
    *,
    name: str | None = None,
    storage_domain: str | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> StreamRestored:
    """Restore a stream that holds a whole disk to a new disk, which is removed again on an error.

    How much data will come is not known before it came: on block storage the disk begins at its full size. Raises
    FormatError, UsageError, EngineError and ImageioError.
    """
    started_at = time.monotonic()
    source = _whole(stream)
    chosen = name or _name(source)
    if chosen is None:
        raise UsageError("the stream does not say which disk it is of", "Name the new disk with --disk.")
    domain = _domain(engine, storage_domain)
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
            initial_size=source.size if domain.is_block else None,
        ),
    )
    try:
        with start_upload(engine, disk.id) as transfer:
            sink: Sink = ImageioSink(imageio_address(engine, transfer), reads_zero=True)
            copied = pour(source, sink, workers=workers, progress=progress)
    except BaseException as error:
        _remove(engine, disk.id, error)
        raise
    return StreamRestored(
        chosen,
        disk.id,
        copied.size,
        copied.written,
        copied.zeroed,
        copied.skipped,
        time.monotonic() - started_at,
    )


def _whole(stream: BinaryIO) -> KnownSource:
    source = open_stream(stream)
    check_whole(source)
    return source


def _name(source: KnownSource) -> str | None:
    meta: Any = getattr(source, "meta", None)
    if isinstance(meta, dict):
        return usable_name(meta.get("disk-name"))
    return usable_name(getattr(meta, "disk_name", None))


def _domain(engine: Engine, wanted: str | None) -> StorageDomain:
    domains = active_data_domains(engine)
    found = [domain for domain in domains if wanted in (None, domain.id, domain.name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{domain.name} ({domain.id})" for domain in domains) or "none"
    if wanted is None:
        raise UsageError(
            "a stream does not say which storage domain its disk was on",
            f"Choose one with --storage-domain: {listed}.",
        )
    raise UsageError(f"there is no active data storage domain {wanted!r}", f"There are: {listed}.")


def _remove(engine: Engine, disk_id: str, error: BaseException) -> None:
    try:
        delete_disk(engine, disk_id)
    except NoSuchDisk:
        # A cancelled upload has removed it already.
        return
    except PitrError as problem:
        error.add_note(f"the new disk {disk_id} could not be removed: {problem.message}; remove it by hand")
