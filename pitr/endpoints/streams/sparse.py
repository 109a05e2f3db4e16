# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as oVirt sparse streams on pipes and files, plain or as zstd frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from pitr.copier.streamed import Passing
from pitr.endpoints.streams.one_way import OneWaySink, pass_records
from pitr.errors import FormatError
from pitr.formats.in_order import InOrder
from pitr.formats.sparse import SparseReader
from pitr.repository.blob import DEFAULT_LEVEL, FRAME_SIZE, BlobWriter
from pitr.repository.stream_sink import Compression, StoredPiece, StreamWriter


class SparseStreamSink(OneWaySink):
    """A sink that writes a disk as a sparse stream, in the order of the disk, to `write`.

    `size` is bytes; `meta` adds fields to the meta header. Unless the stream is `incremental`, it must get the whole
    disk (FormatError). The stream is complete only after `flush`; every reader refuses a truncated one.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        size: int,
        *,
        incremental: bool,
        meta: Mapping[str, Any] | None = None,
        compression: Compression = "zstd",
        level: int = DEFAULT_LEVEL,
        frame_size: int = FRAME_SIZE,
    ) -> None:
        self._level = level if compression == "zstd" else None
        self._frame_size = frame_size
        head = {"data-size": 0, **(meta or {}), "virtual-size": size, "incremental": incremental}
        self._blob = BlobWriter(write, head, compressed=compression == "zstd")
        self._order = InOrder(size, whole=not incremental, zero=self._blob.add_zero)

    def open_writer(self) -> StreamWriter:
        return StreamWriter(self._frame_size, self._level)

    def append(self, pieces: Sequence[StoredPiece]) -> None:
        """Write the next pieces of the disk. One caller at a time."""
        for piece in pieces:
            self._order.next(piece.start, piece.length, zero=piece.frame is None)
            if piece.frame is not None:
                self._blob.add_data(piece.start, piece.length, piece.frame)

    def flush(self) -> None:
        self._order.finish()
        self._blob.finish()


class SparseStreamSource:
    """A sparse stream, read once from a binary file object. The caller closes the file object.

    Decompress the input first (`pitr.endpoints.streams.input`). `meta` is the meta header. Raises FormatError.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._reader = SparseReader(stream)

    @property
    def meta(self) -> Mapping[str, Any]:
        return self._reader.meta

    @property
    def size(self) -> int:
        return self._reader.virtual_size

    @property
    def whole(self) -> bool:
        return not self._reader.incremental

    def passing(self) -> Iterator[Passing]:
        yield from pass_records(self._reader, None)
        if self._stream.read(1):
            raise FormatError("something follows after the end of the stream")
