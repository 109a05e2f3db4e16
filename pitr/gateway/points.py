# SPDX-License-Identifier: GPL-2.0-or-later
"""Points of the repository as documents, as streams and as bytes. All functions block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pitr.endpoints.streams.output import StreamOutput
from pitr.errors import UsageError
from pitr.gateway.ranges import ByteRange, Multipart
from pitr.jobs import documents, export, find
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.location import Location
from pitr.repository.stream_sink import Compression


@dataclass(frozen=True, slots=True)
class PointDisk:
    """The disk at a point that a request names, and the point to compare it with."""

    backup: Backup
    stream: Stream
    since: Backup | None
    format: export.ExportFormat
    compression: Compression

    @property
    def etag(self) -> str:
        """Return the entity tag. The bytes of a point never change."""
        return f'"{self.backup.backup_id}.{self.stream.disk_id}"'


def list_points(path: Location, vm: str | None) -> dict[str, Any]:
    """Return the document of `pitr list`: all points, or the points of one VM. Raises NoSuchVM."""
    with Repository.open(path) as repository:
        # The answer is written after the repository is closed.
        return {"points": list(documents.points_document(repository, vm)["points"])}


def show_point(path: Location, point: str) -> dict[str, Any]:
    """Return the document of `pitr show`. Raises NoSuchPoint, UsageError."""
    with Repository.open(path) as repository:
        return documents.point_document(repository, point)


def find_point_disk(
    path: Location,
    point: str,
    disk: str,
    *,
    format: export.ExportFormat,
    since: str | None,
    compression: Compression,
) -> PointDisk:
    """Find the disk that a request names, by ids or their beginnings. Raises NoSuchPoint, NoSuchDisk, UsageError."""
    if format == "raw" and (since is not None or compression != "none"):
        raise UsageError(
            "format=raw sends the bytes of the disk: you cannot combine it with since or compress"
        )
    with Repository.open(path) as repository:
        backup = find.point_or_removed(repository, point).backup
        stream = find.streams_of(backup, [disk], repository)[0]
        other = None
        if since is not None:
            other = find.point_with_id(repository, since, backup.vm).backup
        return PointDisk(backup, stream, other, format, compression)


def send_stream(path: Location, wanted: PointDisk, write: Callable[[bytes], object], *, workers: int) -> None:
    """Write the disk in its format to `write`. Raises StoredDamage, BusyError, and the errors of `write`."""
    with Repository.open(path) as repository:
        export.export_stream(
            repository,
            wanted.backup,
            wanted.stream,
            _Written(write, wanted.compression),
            wanted.format,
            since=wanted.since,
            workers=workers,
        )


def send_range(
    path: Location, wanted: PointDisk, write: Callable[[bytes], object], part: ByteRange, *, workers: int
) -> None:
    """Write one range of the disk to `write`. Raises the same errors as `send_stream`."""
    with Repository.open(path) as repository:
        _send(repository, wanted, write, part, workers)


def send_parts(
    path: Location, wanted: PointDisk, write: Callable[[bytes], object], several: Multipart, *, workers: int
) -> None:
    """Write several ranges of the disk to `write` as one multipart body. Raises the same errors as `send_stream`."""
    with Repository.open(path) as repository:
        for head, part in several.parts:
            write(head)
            _send(repository, wanted, write, part, workers)
        write(several.end)


def _send(
    repository: Repository,
    wanted: PointDisk,
    write: Callable[[bytes], object],
    part: ByteRange,
    workers: int,
) -> None:
    output = _Written(write, "none")
    export.export_range(
        repository, wanted.backup, wanted.stream, output, part.start, part.end, workers=workers
    )


class _Written(StreamOutput):
    """Gives all bytes to a function. The server notices the end of the job itself."""

    def __init__(self, write: Callable[[bytes], object], compression: Compression) -> None:
        super().__init__(compression)
        self._write = write

    def write(self, data: bytes | memoryview) -> None:
        self._write(data if isinstance(data, bytes) else bytes(data))

    def finish(self) -> None:
        """Do nothing: the body ends when the job has ended."""

    def abort(self) -> None:
        """Do nothing: a client drops a body without its end."""
