# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening what a disk can be written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pitr.api.sources import image_format, is_url
from pitr.copier.protocols import Sink
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.images.nbd_export import NbdSink
from pitr.endpoints.images.qcow2_file import Qcow2FileSink
from pitr.endpoints.images.raw_file import RawFileSink
from pitr.endpoints.streams.rbd_diff import RbdDiffSink
from pitr.endpoints.streams.sparse import Compression, SparseStreamSink
from pitr.errors import UsageError
from pitr.jobs.imports.point_sink import PointSink
from pitr.ovirt.imageio.disk import ImageioAddress, ImageioSink
from pitr.repository import Repository

SinkFormat = Literal["raw", "qcow2", "sparse", "rbd-diff", "rbd-diff-v2"]


@contextmanager
def open_sink(
    where: str | Path | bytearray | BinaryIO | Repository,
    size: int,
    *,
    format: SinkFormat | None = None,
    compression: Compression = "zstd",
    incremental: bool = False,
    meta: Mapping[str, Any] | None = None,
    from_snapshot: str | None = None,
    to_snapshot: str | None = None,
    proxy_url: str | None = None,
    cafile: str | Path | None = None,
    secure: bool = True,
    reads_zero: bool = False,
    vm: str | None = None,
    disk: str | None = None,
    time: datetime | None = None,
    onto: str | None = None,
) -> Iterator[Sink]:
    """Open something that a disk of `size` bytes can be written to; left with an error, what it has made is undone.

    `where` is one of:

    - the URL of an imageio transfer, or an NBD URL; `reads_zero` says that the disk is new and reads as zero;
    - the path of a new image file, of the `format` "raw" or "qcow2", or what its suffix says;
    - a bytearray of `size` bytes, which are zero where `reads_zero` says so;
    - a binary file object, which stays the caller's. It gets a stream of the `format` "sparse" (the default), as zstd
      frames or with `compression` "none" plain, with `meta` in its header; or "rbd-diff" or "rbd-diff-v2", with
      `to_snapshot`. An `incremental` stream holds only what changed; an rbd diff then has a `from_snapshot`;
    - a repository: `vm` and `disk` (names or ids, known or new) get a point of `time` (now), on the point `onto` when
      it is incremental. The sink's `backup` is the new point, once it is flushed.

    `copy` flushes: only then is everything durable, and a file or a point there. Raises the types of pitr.errors:
    UsageError for what is none of these, and for files that exist.
    """
    sink: Sink
    if isinstance(where, Repository):
        if vm is None or disk is None:
            raise UsageError("a point in a repository needs a VM and a disk")
        sink = PointSink(where, size, vm=vm, disk=disk, moment=time, onto=onto)
    elif isinstance(where, bytearray):
        sink = MemorySink.over(where, size, reads_zero=reads_zero)
    elif not isinstance(where, (str, Path)):
        sink = _stream(where, size, format, compression, incremental, meta, from_snapshot, to_snapshot)
    elif is_url(where, "http:", "https:"):
        address = ImageioAddress(str(where), proxy_url, cafile, secure)
        sink = ImageioSink(address, reads_zero=reads_zero)
    elif is_url(where, "nbd:", "nbd+unix:"):
        sink = NbdSink(str(where), size, reads_zero=reads_zero)
    elif image_format(where, format) == "qcow2":
        sink = Qcow2FileSink(Path(where), size)
    else:
        sink = RawFileSink(Path(where), size)
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise


def _stream(
    stream: BinaryIO,
    size: int,
    format: SinkFormat | None,
    compression: Compression,
    incremental: bool,
    meta: Mapping[str, Any] | None,
    from_snapshot: str | None,
    to_snapshot: str | None,
) -> Sink:
    def write(data: bytes | memoryview) -> None:
        view = memoryview(data)
        # Unbuffered files take what they have room for; others take all, and some of them do not say so.
        while view:
            taken = stream.write(view)
            view = view[len(view) if taken is None else taken :]

    if format in (None, "sparse"):
        return SparseStreamSink(write, size, incremental=incremental, meta=meta, compression=compression)
    if format not in ("rbd-diff", "rbd-diff-v2"):
        raise UsageError(f"a file object takes a stream, not an image of the format {format!r}")
    if incremental != (from_snapshot is not None):
        raise UsageError("an rbd diff has a from_snapshot when it is incremental, and only then")
    return RbdDiffSink(
        write,
        size,
        version=2 if format == "rbd-diff-v2" else 1,
        from_snapshot=from_snapshot,
        to_snapshot=to_snapshot,
    )
