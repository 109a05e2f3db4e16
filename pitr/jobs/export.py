# SPDX-License-Identifier: GPL-2.0-or-later
"""Export of a disk at a point, or of its difference to another point, as a stream or an image file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pitr import times
from pitr.copier import copy
from pitr.copier.copy import DEFAULT_WORKERS
from pitr.copier.protocols import Sink
from pitr.endpoints.images.raw_file import RawFileSink
from pitr.endpoints.points.difference import DifferenceSource, open_difference
from pitr.endpoints.points.point import PointSource, open_point
from pitr.endpoints.streams.output import StreamOutput
from pitr.endpoints.streams.packed import PackedOutput
from pitr.endpoints.streams.raw import PartOfSource, RawStreamSink
from pitr.endpoints.streams.rbd_diff import RbdDiffSink
from pitr.endpoints.streams.sparse import SparseStreamSink
from pitr.errors import NoSuchDisk, UsageError
from pitr.jobs import lineage
from pitr.jobs.known_damage import remembering
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.text import printable


class ExportFormat(StrEnum):
    """The format of an export. A raw export cannot be a difference."""

    SPARSE = "sparse"
    RBD_DIFF = "rbd-diff"
    RBD_DIFF_V2 = "rbd-diff-v2"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported disk. Sizes are in bytes of the disk; a difference leaves out `unchanged_bytes`."""

    disk_id: str
    name: str
    size: int
    data_bytes: int
    zero_bytes: int

    @property
    def unchanged_bytes(self) -> int:
        """Return the bytes of the disk that a difference leaves out."""
        return self.size - self.data_bytes - self.zero_bytes


def export_stream(
    repository: Repository,
    backup: Backup,
    stream: Stream,
    output: StreamOutput,
    stream_format: ExportFormat,
    *,
    since: Backup | None = None,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Exported:
    """Write the disk of `stream` at the point of `backup` to `output`; finish `output`, or abort it on an error.

    With `since`, write only the ranges that differ from that point, which may be older or newer. A raw stream is the
    whole disk, zeroes included, and has no end mark. Raises StoredDamage, NoSuchDisk, UsageError.
    """
    if stream_format is ExportFormat.RAW and since is not None:
        raise UsageError("a raw stream holds a whole disk: it cannot leave out unchanged ranges")
    with ExitStack() as failure:
        failure.callback(output.abort)
        with _reading(repository, backup), _open(repository, backup, stream, since) as source:
            sink: Sink
            packed: PackedOutput | None = None
            if stream_format is ExportFormat.SPARSE:
                sink = SparseStreamSink(
                    output.write,
                    source.size,
                    incremental=since is not None,
                    meta=_meta(backup, stream, since, source.extents().data_bytes),
                    compression=output.compression,
                )
            else:
                packed = PackedOutput(output) if output.compression == "zstd" else None
                write = output.write if packed is None else packed.write
                sink = _plain_sink(write, source.size, stream_format, backup, since)
            copied = copy(source, sink, workers=workers, progress=progress)
            if packed is not None:
                packed.finish()
        output.finish()
        failure.pop_all()
    return Exported(stream.disk_id, stream.name, copied.size, copied.written, copied.zeroed + copied.skipped)


def _plain_sink(
    write: Callable[[bytes], object],
    size: int,
    stream_format: ExportFormat,
    backup: Backup,
    since: Backup | None,
) -> RawStreamSink | RbdDiffSink:
    """Return the sink of a format that has no compression of its own."""
    if stream_format is ExportFormat.RAW:
        return RawStreamSink(write, 0, size)
    return RbdDiffSink(
        write,
        size,
        version=2 if stream_format is ExportFormat.RBD_DIFF_V2 else 1,
        from_snapshot=None if since is None else since.backup_id,
        to_snapshot=backup.backup_id,
    )


def export_raw(
    repository: Repository,
    backup: Backup,
    stream: Stream,
    path: Path,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Exported:
    """Write the disk to the new sparse image file `path`. Raises StoredDamage, and UsageError if the file exists."""
    with _reading(repository, backup), open_point(repository, backup, stream) as source:
        sink = RawFileSink(path, source.size)
        try:
            copied = copy(source, sink, workers=workers, progress=progress)
        except BaseException:
            sink.abort()
            raise
    return Exported(stream.disk_id, stream.name, copied.size, copied.written, copied.zeroed + copied.skipped)


def export_range(
    repository: Repository,
    backup: Backup,
    stream: Stream,
    output: StreamOutput,
    start: int,
    end: int,
    *,
    workers: int = DEFAULT_WORKERS,
) -> None:
    """Write the bytes `[start, end)` of the disk to `output`, which the caller finishes.

    Raises StoredDamage, ValueError.
    """
    with _reading(repository, backup), open_point(repository, backup, stream) as source:
        if not 0 <= start <= end <= source.size:
            raise ValueError(f"a disk of {source.size} bytes has no range {start} to {end}")
        sink = RawStreamSink(output.write, start, end)
        copy(PartOfSource(source, start, end), sink, workers=workers)


@contextmanager
def _reading(repository: Repository, backup: Backup) -> Iterator[None]:
    """Protect the points of the VM from removal, and remember damage that the block meets."""
    with repository.reading_vm(backup.vm), remembering(repository, backup.vm.id, "export"):
        yield


def _open(
    repository: Repository, backup: Backup, stream: Stream, since: Backup | None
) -> PointSource | DifferenceSource:
    if since is None:
        return open_point(repository, backup, stream)
    older = lineage.counterpart(repository, since, stream)
    if older is None:
        raise NoSuchDisk(f"the point {since.backup_id} does not hold the disk {printable(stream.name)}")
    return open_difference(repository, (since, older), backup, stream)


def _meta(backup: Backup, stream: Stream, since: Backup | None, data_bytes: int) -> dict[str, Any]:
    """Return the metadata of a sparse stream. It has no stream id: it is of a point, not of a stored stream."""
    return {
        "virtual-size": stream.size,
        "data-size": data_bytes,
        "date": times.to_text(backup.point),
        "incremental": since is not None,
        "backup-id": backup.backup_id,
        "since-backup-id": None if since is None else since.backup_id,
        "disk-id": stream.disk_id,
        "disk-name": stream.name,
        "vm-id": backup.vm.id,
        "vm-name": backup.vm.name,
    }
