# SPDX-License-Identifier: GPL-2.0-or-later
"""Open the sinks of `copy`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Unpack

from pitr.api.options import SinkKeywords, SinkOptions, gather
from pitr.api.sources import image_format, is_url
from pitr.copier.protocols import Sink
from pitr.endpoints.images.memory import MemorySink
from pitr.endpoints.images.nbd_export import NbdSink
from pitr.endpoints.images.qcow2_file import Qcow2FileSink
from pitr.endpoints.images.raw_file import RawFileSink
from pitr.endpoints.streams.rbd_diff import RbdDiffSink
from pitr.endpoints.streams.sparse import SparseStreamSink
from pitr.errors import UsageError
from pitr.jobs.imports.point_sink import PointSink
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.repository import Repository


@contextmanager
def open_sink(
    where: str | Path | bytearray | BinaryIO | Repository, size: int, **keywords: Unpack[SinkKeywords]
) -> Iterator[Sink]:
    """Open a sink to write a disk of `size` bytes to. If an error leaves the block, the sink is undone.

    `where` is one of:

    - the URL of an imageio transfer, with `proxy_url`, `cafile` and `secure`, or an NBD URL; `reads_zero` says that
      the disk is new and reads as zero;
    - the path of a new image file; its `format` is "raw" or "qcow2", otherwise the suffix decides. With
      `overwrite_device`, also of a block device that is not in use;
    - a bytearray of `size` bytes; `reads_zero` says that they are zero;
    - a binary file object, which the caller closes. The `format` "sparse" (the default) writes zstd frames, or with
      `compression` "none" a plain stream, with `meta` in its header. The formats "rbd-diff" and "rbd-diff-v2" take a
      `to_snapshot`. An `incremental` stream holds only changes; an rbd diff then needs a `from_snapshot`;
    - a repository: the copy becomes a point of `vm` and `disk` (names or ids, known or new) with the `time` (now). With
      `onto`, a point, it is incremental. After the flush, the sink's `backup` is the new point.

    `copy` flushes the sink. Only then the data is durable, and the file or the point exists. Raises the types of
    pitr.errors: UsageError for any other `where`, and for a file that already exists. Raises TypeError for an unknown
    option.
    """
    options = gather(SinkOptions, "open_sink", keywords)
    sink: Sink
    if isinstance(where, Repository):
        if options.vm is None or options.disk is None:
            raise UsageError("a point in a repository needs a VM and a disk")
        sink = PointSink(
            where, size, vm=options.vm, disk=options.disk, moment=options.time, onto=options.onto
        )
    elif isinstance(where, bytearray):
        sink = MemorySink.over(where, size, reads_zero=options.reads_zero)
    elif not isinstance(where, (str, Path)):
        sink = _stream(where, size, options)
    elif is_url(where, "http:", "https:"):
        sink = ImageioSink(options.address(str(where)), reads_zero=options.reads_zero)
    elif is_url(where, "nbd:", "nbd+unix:"):
        sink = NbdSink(str(where), size, reads_zero=options.reads_zero)
    elif image_format(where, options.format) == "qcow2":
        sink = Qcow2FileSink(Path(where), size)
    else:
        sink = RawFileSink(Path(where), size, overwrite_device=options.overwrite_device)
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise


def _stream(stream: BinaryIO, size: int, options: SinkOptions) -> Sink:
    def write(data: bytes | memoryview) -> None:
        view = memoryview(data)
        # An unbuffered file may write a part, and returns its length. Others write everything, and some return None.
        while view:
            taken = stream.write(view)
            view = view[len(view) if taken is None else taken :]

    incremental = options.incremental
    if options.format in (None, "sparse"):
        return SparseStreamSink(
            write, size, incremental=incremental, meta=options.meta, compression=options.compression
        )
    if options.format not in ("rbd-diff", "rbd-diff-v2"):
        raise UsageError(f"a file object takes a stream, not an image of the format {options.format!r}")
    if incremental != (options.from_snapshot is not None):
        raise UsageError("an incremental rbd diff needs a from_snapshot, and a full one must not have it")
    return RbdDiffSink(
        write,
        size,
        version=2 if options.format == "rbd-diff-v2" else 1,
        from_snapshot=options.from_snapshot,
        to_snapshot=options.to_snapshot,
    )
