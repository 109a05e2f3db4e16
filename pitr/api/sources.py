# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening what a disk can be read from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

from pitr.copier.protocols import Source
from pitr.copier.streamed import StreamedSource
from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.images.nbd_export import NbdSource
from pitr.endpoints.images.qcow2_file import Qcow2FileSource
from pitr.endpoints.images.raw_file import RawFileSource
from pitr.endpoints.points.difference import open_difference
from pitr.endpoints.points.point import open_point
from pitr.endpoints.streams.detect import open_stream
from pitr.endpoints.streams.front_to_back import FrontToBack
from pitr.errors import NoSuchDisk, NoSuchError, UsageError
from pitr.jobs import find
from pitr.jobs.restore.choice import ImageFormat
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSource
from pitr.repository import Repository


@contextmanager
def open_source(
    where: str | Path | bytes | bytearray | memoryview | BinaryIO | Repository,
    *,
    format: Literal["raw", "qcow2"] | None = None,
    context: Literal["zero", "dirty"] = "zero",
    proxy_url: str | None = None,
    cafile: str | Path | None = None,
    secure: bool = True,
    point: str | None = None,
    disk: str | None = None,
    since: str | None = None,
    stream: str | None = None,
) -> Iterator[Source | StreamedSource]:
    """Open something that a disk can be read from; leaving the block closes it.

    `where` is one of:

    - the URL of an imageio transfer, with `context` "dirty" only what changed; `proxy_url`, `cafile`, `secure`;
    - an NBD URL;
    - the path of an image file, of the `format` "raw" or "qcow2", or what its suffix says;
    - the bytes of a disk;
    - a binary file object with a sparse stream, an rbd diff or a stream of virtnbdbackup, compressed with zstd or
      not: it is read once, and stays the caller's;
    - a repository: its `point` (an id), with `since` only what is different from that other point, and `disk` (a name
      or an id) where the point holds several; or one stored `stream` (an id), as it is stored.

    Raises the types of pitr.errors: UsageError for what is none of these, NoSuchError.
    """
    if isinstance(where, Repository):
        with _in_repository(where, point, disk, since, stream) as source:
            yield source
    elif isinstance(where, (bytes, bytearray, memoryview)):
        yield MemorySource(where)
    elif not isinstance(where, (str, Path)):
        yield open_stream(where)
    elif is_url(where, "http:", "https:"):
        yield ImageioSource(ImageioAddress(str(where), proxy_url, cafile, secure), context)
    elif is_url(where, "nbd:", "nbd+unix:"):
        with NbdSource(str(where)) as server:
            yield server
    elif image_format(where, format) == "qcow2":
        with Qcow2FileSource(Path(where)) as image:
            yield image
    else:
        with RawFileSource(Path(where)) as raw:
            yield raw


@contextmanager
def _in_repository(
    repository: Repository, point: str | None, disk: str | None, since: str | None, stream_id: str | None
) -> Iterator[Source | StreamedSource]:
    if (point is None) == (stream_id is None):
        raise UsageError("a repository is read at a point, or one stream of it is: name one of the two")
    if stream_id is not None:
        for backup in repository.catalog.points():
            for stored in backup.streams:
                if stored.stream_id == stream_id:
                    with repository.reading_vm(backup.vm), repository.open_blob(backup, stored) as blob:
                        yield open_stream(cast(BinaryIO, FrontToBack(blob)))
                    return
        raise NoSuchError(f"the repository holds no stream {stream_id!r}")
    backup = find.point_with_id(repository, point or "").backup
    streams = find.streams_of(backup, [disk] if disk is not None else [])
    if len(streams) != 1:
        raise UsageError(f"the point holds {len(streams)} disks", "Name one of them.")
    chosen = streams[0]
    with repository.reading_vm(backup.vm):
        if since is None:
            with open_point(repository, backup, chosen) as source:
                yield source
            return
        other = find.point_with_id(repository, since, backup.vm).backup
        before = other.stream_of(chosen.disk_id)
        if before is None:
            raise NoSuchDisk(f"the point {other.backup_id} does not hold the disk {chosen.name!r}")
        with open_difference(repository, (other, before), backup, chosen) as difference:
            yield difference


def is_url(where: str | Path, *schemes: str) -> bool:
    return isinstance(where, str) and where.startswith(schemes)


def image_format(path: str | Path, given: str | None) -> ImageFormat:
    """The format of an image file: what is given, else what its suffix says. Raises UsageError."""
    if given not in (None, "raw", "qcow2"):
        raise UsageError(f"an image file is raw or qcow2, not {given!r}")
    # Never what it looks like: a guest can write another format's header into a raw image.
    if given is not None:
        return ImageFormat(given)
    return ImageFormat.QCOW2 if Path(path).suffix == ".qcow2" else ImageFormat.RAW
