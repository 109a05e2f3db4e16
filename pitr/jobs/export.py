# SPDX-License-Identifier: GPL-2.0-or-later
"""Export: a disk at a point, or what is different since another point, as a stream or an image file."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from pitr.model import Backup, Stream
from pitr.reporting import Progress
from pitr.repository import Repository
from pitr.text import printable

ExportFormat = Literal["sparse", "rbd-diff", "rbd-diff-v2", "raw"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported, in bytes of the disk; `unchanged` is what a difference leaves out."""

    disk_id: str
    name: str
    size: int
    data_bytes: int
    zero_bytes: int

    @property
    def unchanged_bytes(self) -> int:
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
    """Write the disk of `stream` at the point of `backup` to `output`, which is finished, or aborted on an error.

    With `since` only what is different at that point, which may be the later one. A raw stream is all of the disk,
    zeroes included, and has no end that tells it whole. Raises StoredDamage, NoSuchDisk, UsageError.
    """
    if stream_format == "raw" and since is not None:
        raise UsageError("a raw stream holds a whole disk: it cannot say what is unchanged")
    with ExitStack() as failure:
        failure.callback(output.abort)
        with repository.reading_vm(backup.vm), _open(repository, backup, stream, since) as source:
            packed = (
                PackedOutput(output) if stream_format != "sparse" and output.compression == "zstd" else None
            )
            write = output.write if packed is None else packed.write
            sink: Sink
            if stream_format == "sparse":
                sink = SparseStreamSink(
                    write,
                    source.size,
                    incremental=since is not None,
                    meta=_meta(backup, stream, since, source.extents().data_bytes),
                    compression=output.compression,
                )
            elif stream_format == "raw":
                sink = RawStreamSink(write, 0, source.size)
            else:
                sink = RbdDiffSink(
                    write,
                    source.size,
                    version=2 if stream_format == "rbd-diff-v2" else 1,
                    from_snapshot=None if since is None else since.backup_id,
                    to_snapshot=backup.backup_id,
                )
            copied = copy(source, sink, workers=workers, progress=progress)
            if packed is not None:
                packed.finish()
        output.finish()
        failure.pop_all()
    return Exported(stream.disk_id, stream.name, copied.size, copied.written, copied.zeroed + copied.skipped)


def export_raw(
    repository: Repository,
    backup: Backup,
    stream: Stream,
    path: Path,
    *,
    workers: int = DEFAULT_WORKERS,
    progress: Progress | None = None,
) -> Exported:
    """Write the disk to the new, sparse image file `path`. Raises StoredDamage, UsageError when it exists."""
    with repository.reading_vm(backup.vm), open_point(repository, backup, stream) as source:
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
    """Write the bytes `[start, end)` of the disk to `output`, which the caller finishes. Raises StoredDamage."""
    with repository.reading_vm(backup.vm), open_point(repository, backup, stream) as source:
        if not 0 <= start <= end <= source.size:
            raise ValueError(f"a disk of {source.size} bytes has no range {start} to {end}")
        sink = RawStreamSink(output.write, start, end)
        copy(PartOfSource(source, start, end), sink, workers=workers)


def _open(
    repository: Repository, backup: Backup, stream: Stream, since: Backup | None
) -> PointSource | DifferenceSource:
    if since is None:
        return open_point(repository, backup, stream)
    older = since.stream_of(stream.disk_id)
    if older is None:
        raise NoSuchDisk(f"the point {since.backup_id} does not hold the disk {printable(stream.name)}")
    return open_difference(repository, (since, older), backup, stream)


def _meta(backup: Backup, stream: Stream, since: Backup | None, data_bytes: int) -> dict[str, Any]:
    """What the stream tells of itself. It is of a point, not of one stored stream, and names no stream's id."""
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
