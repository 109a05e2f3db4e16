# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of the engine through ovirt-imageio, as sparse streams in both directions. All functions block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, BinaryIO, Literal

from pitr import times
from pitr.copier import copy
from pitr.copier.pour import check_whole, pour
from pitr.copier.streamed import Passing, StreamedSource, cut
from pitr.endpoints.streams.detect import open_stream
from pitr.endpoints.streams.sparse import SparseStreamSink
from pitr.errors import EngineError, NoSuchDisk, UsageError
from pitr.extents import Extent
from pitr.gateway.failures import Conflict, status_of
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    AttachedTransfer,
    Disk,
    Engine,
    find_transfer,
    get_disk,
    start_download,
    start_upload,
)
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSink, ImageioSource
from pitr.ovirt.imageio.extents import Context
from pitr.ovirt.imageio.keep_alive import KeptAliveSource, kept_alive
from pitr.repository.stream_sink import Compression

#: The gateway keeps its transfers alive while it uses them. So the engine keeps a transfer this long after the gateway
#: was killed.
_INACTIVITY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class _OpenTransfer:
    """A transfer that data can flow through. `disk` is None when the engine does not report the disk."""

    address: ImageioAddress
    disk: Disk | None
    backup_id: str | None


def send_image(
    engine: Engine,
    image_id: str,
    write: Callable[[bytes], object],
    *,
    context: Context,
    backup_id: str | None,
    compression: Compression,
    workers: int,
) -> None:
    """Write a disk as a sparse stream to `write`. `image_id` is the id of a transfer or of the disk.

    End a transfer that was started here in any case. Raises NoSuchDisk, Conflict, UsageError, CheckpointGone,
    EngineError, and the errors of `write`.
    """
    with _download(engine, image_id, context, backup_id) as opened:
        moment = times.now()
        size = opened.disk.size if opened.disk is not None else None
        source = ImageioSource(opened.address, context, engine_size=size)
        with kept_alive(opened.address):
            meta = {**_meta(opened), "date": times.to_text(moment), "data-size": source.extents().data_bytes}
            sink = SparseStreamSink(
                write, source.size, incremental=context == "dirty", meta=meta, compression=compression
            )
            copy(KeptAliveSource(source), sink, workers=workers)


def receive_image(
    engine: Engine, image_id: str, body: BinaryIO, *, new: bool, incremental: bool, workers: int
) -> dict[str, Any]:
    """Write the sparse stream `body` to a disk. `image_id` is the id of an upload or, if `new`, of the disk.

    Return the document of the answer. Raises FormatError for an invalid stream, NoSuchDisk, Conflict, UsageError and
    EngineError.
    """
    source = open_stream(body, "sparse")
    if not incremental:
        check_whole(source)
    with _upload(engine, image_id, source, new, incremental) as opened:
        size = opened.disk.size if opened.disk is not None else None
        described = ImageioSource(opened.address, engine_size=size)
        with kept_alive(opened.address):
            extents = described.extents()
            _check_fits(source, described.size)
            sink = ImageioSink(opened.address, reads_zero=extents.data_bytes == 0)
            whole = _Filled(source, described.size)
            # Leave one connection to the thread that keeps the transfer alive.
            done = pour(whole, sink, workers=max(1, min(workers, sink.max_writers - 1)))
    name = opened.disk.name if opened.disk is not None else None
    written = asdict(done)
    return {
        "restored": {
            "disk_id": opened.disk.id if opened.disk is not None else None,
            "name": name,
            "size": written.pop("size"),
            **{f"bytes_{key}": value for key, value in written.items()},
        }
    }


@contextmanager
def _download(
    engine: Engine, image_id: str, context: Context, backup_id: str | None
) -> Iterator[_OpenTransfer]:
    attached = find_transfer(engine, image_id)
    if attached is not None:
        if backup_id is not None:
            raise UsageError(f"{image_id} is a transfer: backup=ID only works with the id of a disk")
        yield _attached(engine, attached, "download")
        return
    disk = _disk(engine, image_id)
    if context == "dirty" and backup_id is None:
        raise UsageError(
            "context=dirty needs a backup",
            "Name the running backup with backup=ID, or the id of a transfer that belongs to it.",
        )
    started = start_download(engine, disk.id, backup_id=backup_id, inactivity_timeout_s=_INACTIVITY_TIMEOUT_S)
    with ExitStack() as stack:
        try:
            transfer = stack.enter_context(started)
        except EngineError as error:
            if backup_id is None and status_of(error) == HTTPStatus.CONFLICT:
                error.advice = "While its VM is running, read a disk within a backup: name it with backup=ID."
            raise
        yield _OpenTransfer(imageio_address(engine, transfer), disk, backup_id)


@contextmanager
def _upload(
    engine: Engine, image_id: str, source: StreamedSource, new: bool, incremental: bool
) -> Iterator[_OpenTransfer]:
    attached = find_transfer(engine, image_id)
    if attached is not None:
        if new:
            raise UsageError(f"{image_id} is a transfer: new=true only works with the id of a disk")
        yield _attached(engine, attached, "upload")
        return
    disk = _disk(engine, image_id)
    if not new:
        raise Conflict(
            f"{disk.id} is an existing disk: a failed upload would remove it",
            "Write to a new disk and add new=true, or start the upload yourself and name its transfer.",
        )
    if incremental:
        raise UsageError("a new disk needs a stream of the whole disk, not an incremental stream")
    _check_fits(source, disk.size)
    _check_empty(engine, disk)
    try:
        with start_upload(engine, disk.id, inactivity_timeout_s=_INACTIVITY_TIMEOUT_S) as transfer:
            yield _OpenTransfer(imageio_address(engine, transfer), disk, None)
    except BaseException as error:
        error.add_note(f"The engine removes the disk {disk.id}, because its upload failed.")
        raise


def _check_empty(engine: Engine, disk: Disk) -> None:
    """Check a disk with a download, which cannot harm it. Raises Conflict when it does not read as zero."""
    with start_download(engine, disk.id, inactivity_timeout_s=_INACTIVITY_TIMEOUT_S) as transfer:
        source = ImageioSource(imageio_address(engine, transfer), engine_size=disk.size)
        data_bytes = source.extents().data_bytes
    if data_bytes:
        raise Conflict(
            f"disk {disk.id} is not new: it holds {data_bytes} bytes of data",
            "Write to a new disk, or start the upload yourself and name its transfer.",
        )


def _attached(
    engine: Engine, transfer: AttachedTransfer, direction: Literal["download", "upload"]
) -> _OpenTransfer:
    if transfer.direction != direction:
        raise Conflict(f"the direction of transfer {transfer.id} is {transfer.direction}, not {direction}")
    if transfer.phase != "transferring" or transfer.transfer_url is None:
        raise Conflict(
            f"transfer {transfer.id} cannot move data: its phase is {transfer.phase}",
            "Start another one on the engine.",
        )
    disk = None
    if transfer.disk_id is not None:
        disk = _disk(engine, transfer.disk_id)
    return _OpenTransfer(imageio_address(engine, transfer), disk, transfer.backup_id)


def _disk(engine: Engine, disk_id: str) -> Disk:
    try:
        return get_disk(engine, disk_id)
    except NoSuchDisk:
        raise NoSuchDisk(
            f"the engine has no transfer and no disk {disk_id}",
            "The engine forgets a transfer when it has ended.",
        ) from None


def _check_fits(source: StreamedSource, size: int) -> None:
    if source.size > size:
        raise Conflict(f"the stream is for a disk of {source.size} bytes; this disk has only {size} bytes")


def _meta(opened: _OpenTransfer) -> Mapping[str, Any]:
    meta: dict[str, Any] = {}
    if opened.disk is not None:
        meta |= {"disk-id": opened.disk.id, "disk-name": opened.disk.name}
    if opened.backup_id is not None:
        meta["backup-id"] = opened.backup_id
    return meta


class _Filled:
    """A stream for a disk that may be larger. If it holds a whole disk, the rest is zero."""

    def __init__(self, source: StreamedSource, size: int) -> None:
        self._source = source
        self.size = size

    @property
    def whole(self) -> bool:
        return self._source.whole

    def passing(self) -> Iterator[Passing]:
        yield from self._source.passing()
        if self.whole and self.size > self._source.size:
            yield from cut(Extent(self._source.size, self.size - self._source.size, True), bytes)
