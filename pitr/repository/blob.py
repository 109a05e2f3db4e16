# SPDX-License-Identifier: GPL-2.0-or-later
"""Blobs: a sparse stream as a sequence of zstd frames (docs/format.md).

Frames with header text alternate with frames that hold the payload of one extent each. All frames of a blob,
decompressed in order, are exactly one sparse stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zstandard
from blake3 import blake3

from pitr.errors import FormatError
from pitr.formats import sparse

DEFAULT_LEVEL = 1
#: Frames are cut at multiples of this many bytes of the disk, and each worker holds one frame in memory. Larger
#: frames compress hardly better and make small reads of a point slower.
FRAME_SIZE = 1 << 20
MAX_FRAME_SIZE = 1 << 24
#: Header text of at least this many bytes becomes a frame, so that a long run of zero extents takes little memory.
_HEADER_TEXT_LIMIT = 1 << 16
#: Up to this size, copying a frame costs less than another write and another update of the digest.
_COPIED = 1 << 16


def digest_of(data: bytes | memoryview) -> bytes:
    """Return the BLAKE3 digest, 32 bytes."""
    return blake3(data).digest()


class Compressor:
    """Compresses frames. Each thread needs its own."""

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        zstd = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        self.compress: Callable[[bytes | bytearray | memoryview], bytes] = zstd.compress


class Plain:
    """Copies frames unchanged, for streams that are piped out without compression."""

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data)


class Decompressor:
    """Decompresses frames. Each thread needs its own."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def decompress(self, frame: bytes | memoryview, length: int) -> bytes:
        """Decompress `frame`, which must be exactly one frame of `length` bytes.

        zstd compares its own checksum. Raises FormatError, without allocating memory for a frame that claims
        another length.
        """
        try:
            parameters = zstandard.get_frame_parameters(frame)
            if parameters.content_size != length:
                raise FormatError(f"a frame claims {parameters.content_size} bytes instead of {length}")
            if not parameters.has_checksum:
                raise FormatError("a frame has no checksum")
            data: bytes = self._zstd.decompress(frame, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError(f"a frame cannot be decompressed: {error}") from None
        if len(data) != length:
            raise FormatError(f"a frame holds {len(data)} bytes instead of {length}")
        return data

    def first_text(self, frames: bytes | memoryview, limit: int) -> bytes:
        """Decompress the first of `frames`, which must be header text of at most `limit` bytes."""
        try:
            if zstandard.get_frame_parameters(frames).content_size > limit:
                raise FormatError("the first frame is too large for header text")
            return self._zstd.decompress(frames)
        except zstandard.ZstdError as error:
            raise FormatError(f"the first frame cannot be decompressed: {error}") from None

    def decompress_text(self, frames: bytes | memoryview, limit: int) -> bytes:
        """Decompress one or more frames of header text, with at most `limit` bytes in all."""
        text = b""
        while frames:
            try:
                claimed = zstandard.get_frame_parameters(frames).content_size
                if claimed > limit - len(text):
                    raise FormatError(f"header text claims {claimed} bytes")
                # A frame can hold far more than it claims. decompress() refuses that. decompressobj(), which finds
                # the end of the frame, would notice it only after it had returned all data.
                text += self._zstd.decompress(frames)
                machine = self._zstd.decompressobj()
                machine.decompress(frames)
            except zstandard.ZstdError as error:
                raise FormatError(f"header text cannot be decompressed: {error}") from None
            if not machine.eof:
                raise FormatError("header text is truncated")
            frames = machine.unused_data
        return text


class BlobWriter:
    """Builds a blob from extents in the order of the disk.

    Passes the bytes of the blob to `write`. Without `compressed` the blob is the plain sparse stream.
    """

    def __init__(
        self, write: Callable[[bytes], object], meta: Mapping[str, Any], *, compressed: bool = True
    ) -> None:
        self._write = write
        self._compressor: Compressor | Plain = Compressor() if compressed else Plain()
        self._digest = blake3()
        self._text = bytearray(sparse.meta_block(meta))
        self.size = 0

    def add_data(self, start: int, length: int, frame: bytes) -> int:
        """Add a data extent of `length` bytes with its payload as `frame`. Return the frame's offset in the blob."""
        return self.add_frames([(start, length, frame)])[0]

    def add_frames(self, extents: Sequence[tuple[int, int, bytes]]) -> list[int]:
        """Add data extents (start, length, frame). Return the offset of each frame in the blob.

        The code is in one piece because it holds Python's lock for each frame of a backup.
        """
        compress, write, update = self._compressor.compress, self._write, self._digest.update
        text, size = self._text, self.size
        offsets: list[int] = []
        for start, length, frame in extents:
            text += sparse.data_header(start, length)
            head = compress(text)
            size += len(head)
            offsets.append(size)
            if len(frame) <= _COPIED:
                head += frame
            write(head)
            update(head)
            if len(frame) > _COPIED:
                write(frame)
                update(frame)
            size += len(frame)
            text[:] = sparse.TAIL
        self.size = size
        return offsets

    def add_zero(self, start: int, length: int) -> None:
        """Add a zero extent."""
        self._text += sparse.zero_header(start, length)
        if len(self._text) >= _HEADER_TEXT_LIMIT:
            self._put(self._taken_text())

    def finish(self) -> str:
        """End the stream. Return the digest of the whole blob in hex."""
        self._text += sparse.STOP
        self._put(self._taken_text())
        return self._digest.hexdigest()

    def _taken_text(self) -> bytes:
        """Return the pending header text as a frame."""
        frame = self._compressor.compress(self._text)
        self._text.clear()
        return frame

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._digest.update(data)
        self.size += len(data)
