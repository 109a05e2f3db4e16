# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks as oVirt sparse streams on pipes and files, plain or as zstd frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal

from pitr.blob import DEFAULT_LEVEL, FRAME_SIZE, BlobWriter
from pitr.endpoint.streamed import Passing, cut
from pitr.errors import FormatError
from pitr.extents import Extent
from pitr.repository.stream_sink import Piece, StreamWriter
from pitr.sparse import SparseReader

Compression = Literal["none", "zstd"]


class SparseStreamSink:
    """A sink that writes a disk as a sparse stream, in the order of the disk, to `write`.

    `size` in bytes; `meta` goes into the meta header beside what the format asks for. A stream that is not
    `incremental` has to get all of the disk (FormatError). The stream has its end only after `flush`; one that is
    cut off before is not taken for whole by any reader.
    """

    max_writers = 1 << 10
    reads_zero = False

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
        self._size = size
        self._incremental = incremental
        self._level = level if compression == "zstd" else None
        self._frame_size = frame_size
        head = {"data-size": 0, **(meta or {}), "virtual-size": size, "incremental": incremental}
        self._blob = BlobWriter(write, head, compressed=compression == "zstd")
        self._end = 0
        self._zero_start: int | None = None

    def open_writer(self) -> StreamWriter:
        return StreamWriter(self._frame_size, self._level)

    def append(self, pieces: Sequence[Piece]) -> None:
        """Write the next pieces of the disk; one caller at a time."""
        for piece in pieces:
            if piece.start < self._end or piece.start + piece.length > self._size:
                raise FormatError(
                    f"the extent at {piece.start} is out of order or beyond the end of the disk"
                )
            if piece.start > self._end:
                self._end_zero()
                if not self._incremental:
                    raise FormatError(f"a full stream must not leave out {self._end} to {piece.start}")
            if piece.frame is None:
                if self._zero_start is None:
                    self._zero_start = piece.start
            else:
                self._end_zero()
                self._blob.add_data(piece.start, piece.length, piece.frame)
            self._end = piece.start + piece.length

    def flush(self) -> None:
        self._end_zero()
        if not self._incremental and self._end != self._size:
            raise FormatError(f"a full stream must not end at {self._end} of {self._size} bytes")
        self._blob.finish()

    def abort(self) -> None:
        """Nothing: what was written is without an end."""

    def _end_zero(self) -> None:
        if self._zero_start is not None:
            self._blob.add_zero(self._zero_start, self._end - self._zero_start)
            self._zero_start = None


class SparseStreamSource:
    """A sparse stream that is read once from a binary file object, which the caller closes.

    Compressed input has to be decompressed before (`pitr.endpoint.input`). `meta` is its meta header. Raises
    FormatError.
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
        for header in self._reader:
            yield from cut(Extent(header.start, header.length, header.zero), self._reader.read)
        if self._stream.read(1):
            raise FormatError("something follows after the end of the stream")
