# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading of a blob without its index: the meta header, then each extent with its frame.

pitr rebuilds a lost index this way (docs/format.md). The blob is untrusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import zstandard
from blake3 import blake3

from pitr.errors import FormatError
from pitr.formats import sparse
from pitr.repository.blob import MAX_FRAME_SIZE, digest_of
from pitr.repository.index import IndexRow
from pitr.repository.store import StoredFile

#: A stored frame of incompressible data is a little larger than the data.
_MAX_STORED = MAX_FRAME_SIZE + (MAX_FRAME_SIZE >> 7) + 1024


class BlobWalk:
    """Yields the rows of a blob's index while it reads the blob once from beginning to end.

    `meta` is valid from the start, `digest` (of the whole blob, hex) and `size` after the last row. Raises
    FormatError unless the blob is complete and well-formed.
    """

    def __init__(self, blob: StoredFile) -> None:
        self._blob = blob
        self._digest = blake3()
        self._at = 0
        self._text = bytearray(self._next_frame(sparse.MAX_META_SIZE + MAX_FRAME_SIZE)[1])
        reader = sparse.SparseReader(BytesIO(self._text))
        self.meta: dict[str, Any] = reader.meta
        self.virtual_size = reader.virtual_size
        self.incremental = reader.incremental
        del self._text[: reader.position]

    @property
    def size(self) -> int:
        return self._at

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[IndexRow]:
        end = 0
        while True:
            kind, start, length = sparse.parse_header(bytes(self._take(sparse.HEADER_SIZE)))
            if kind == b"stop":
                break
            if length == 0 or start < end or start + length > self.virtual_size:
                raise FormatError(
                    f"the extent at {start} overlaps the extent that ends at {end}, or exceeds the disk"
                )
            if start > end and not self.incremental:
                raise FormatError(f"a full stream has a gap from {end} to {start}")
            end = start + length
            if kind == b"zero":
                yield IndexRow(start, length, None, None, None)
            elif kind == b"data":
                yield self._data(start, length)
            else:
                raise FormatError("a second meta header")
        if self._text or self._at != self._blob.size:
            raise FormatError("the blob has data after its end")
        if not self.incremental and end != self.virtual_size:
            raise FormatError(f"a full stream ends at {end} of {self.virtual_size} bytes")

    def _data(self, start: int, length: int) -> IndexRow:
        if self._text:
            raise FormatError("header text follows a data header instead of a frame")
        offset = self._at
        stored, data = self._next_frame(MAX_FRAME_SIZE)
        if len(data) != length:
            raise FormatError(
                f"the frame of the extent at {start} holds {len(data)} bytes instead of {length}"
            )
        if self._take(len(sparse.TAIL)) != sparse.TAIL:
            raise FormatError("an extent's data does not end with CR LF")
        return IndexRow(start, length, offset, stored, digest_of(data))

    def _take(self, length: int) -> bytearray:
        """Return the next `length` bytes of header text."""
        while len(self._text) < length:
            self._text += self._next_frame(MAX_FRAME_SIZE)[1]
        taken = self._text[:length]
        del self._text[:length]
        return taken

    def _next_frame(self, limit: int) -> tuple[int, bytes]:
        """Read the next frame. Return its stored length and its data, at most `limit` bytes."""
        try:
            head = self._blob.read_at(self._at, 64)
            if not head:
                raise FormatError("the blob ends too early")
            length = zstandard.get_frame_parameters(head).content_size
            if length > limit:
                raise FormatError(f"a frame claims {length} bytes")
            stored = self._blob.read_at(self._at, min(_MAX_STORED, length + (length >> 7) + 1024))
            machine = zstandard.ZstdDecompressor().decompressobj()
            data = machine.decompress(stored)
        except zstandard.ZstdError as error:
            raise FormatError(f"the frame at {self._at} cannot be decompressed: {error}") from None
        if not machine.eof or len(data) != length:
            raise FormatError(f"the frame at {self._at} is truncated, or its length is wrong")
        frame = stored[: len(stored) - len(machine.unused_data)]
        self._digest.update(frame)
        self._at += len(frame)
        return len(frame), data
