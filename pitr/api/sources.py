# SPDX-License-Identifier: GPL-2.0-or-later
"""Open the sources of `copy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Unpack, cast

from pitr.api.options import SourceKeywords, SourceOptions, gather
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
from pitr.jobs import find, lineage
from pitr.jobs.restore.choice import ImageFormat
from pitr.ovirt.imageio.disk import ImageioSource
from pitr.repository import Repository


@contextmanager
def open_source(
    where: str | Path | bytes | bytearray | memoryview | BinaryIO | Repository,
    **keywords: Unpack[SourceKeywords],
) -> Iterator[Source | StreamedSource]:
    """Open a source to read a disk from. Leaving the block closes it.

    `where` is one of:

    - the URL of an imageio transfer, with `proxy_url`, `cafile` and `secure`; `context` "dirty" reads only the changes;
    - an NBD URL;
    - the path of an image file; its `format` is "raw" or "qcow2", otherwise the suffix decides;
    - the bytes of a disk;
    - a binary file object with a sparse stream, an rbd diff or a virtnbdbackup stream, plain or compressed with zstd:
      it is read once, and the caller closes it;
    - a repository: its `point` (an id), and `disk` (a name or an id) if the point holds several; `since` (another
      point) reads only the differences. Or one stored `stream` (an id).

    Raises the types of pitr.errors: UsageError for any other `where`, NoSuchError. Raises TypeError for an unknown
    option.
    """
    options = gather(SourceOptions, "open_source", keywords)
    if isinstance(where, Repository):
        with _in_repository(where, options) as source:
            yield source
    elif isinstance(where, (bytes, bytearray, memoryview)):
        yield MemorySource(where)
    elif not isinstance(where, (str, Path)):
        yield open_stream(where)
    elif is_url(where, "http:", "https:"):
        yield ImageioSource(options.address(str(where)), options.context)
    elif is_url(where, "nbd:", "nbd+unix:"):
        with NbdSource(str(where)) as server:
            yield server
    elif image_format(where, options.format) == "qcow2":
        with Qcow2FileSource(Path(where)) as image:
            yield image
    else:
        with RawFileSource(Path(where)) as raw:
            yield raw


@contextmanager
def _in_repository(repository: Repository, options: SourceOptions) -> Iterator[Source | StreamedSource]:
    if (options.point is None) == (options.stream is None):
        raise UsageError("a repository needs either a point or a stream")
    if options.stream is not None:
        with _stored_stream(repository, options.stream) as stored:
            yield stored
        return
    backup = find.point_or_removed(repository, options.point or "").backup
    streams = find.streams_of(backup, [options.disk] if options.disk is not None else [], repository)
    if len(streams) != 1:
        raise UsageError(f"the point holds {len(streams)} disks", "Name one of them.")
    chosen = streams[0]
    with repository.reading_vm(backup.vm):
        if options.since is None:
            with open_point(repository, backup, chosen) as source:
                yield source
            return
        other = find.point_with_id(repository, options.since, backup.vm).backup
        before = lineage.counterpart(repository, other, chosen)
        if before is None:
            raise NoSuchDisk(f"the point {other.backup_id} does not hold the disk {chosen.name!r}")
        with open_difference(repository, (other, before), backup, chosen) as difference:
            yield difference


@contextmanager
def _stored_stream(repository: Repository, stream_id: str) -> Iterator[StreamedSource]:
    backup = repository.catalog.owner_of(stream_id)
    if backup is not None:
        for stored in backup.streams:
            if stored.stream_id == stream_id:
                with repository.reading_vm(backup.vm), repository.open_blob(backup, stored) as blob:
                    yield open_stream(cast(BinaryIO, FrontToBack(blob)))
                return
    raise NoSuchError(f"the repository holds no stream {stream_id!r}")


def is_url(where: str | Path, *schemes: str) -> bool:
    return isinstance(where, str) and where.startswith(schemes)


def image_format(path: str | Path, given: str | None) -> ImageFormat:
    """Return the format of an image file: `given`, otherwise from its suffix. Raises UsageError."""
    if given not in (None, "raw", "qcow2"):
        raise UsageError(f"an image file must be raw or qcow2, not {given!r}")
    # Never guess from the content: a guest can write another format's header into a raw image.
    if given is not None:
        return ImageFormat(given)
    return ImageFormat.QCOW2 if Path(path).suffix == ".qcow2" else ImageFormat.RAW
