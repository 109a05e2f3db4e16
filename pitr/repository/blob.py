# SPDX-License-Identifier: GPL-2.0-or-later
"""Blobs: a sparse stream as a sequence of zstd frames (docs/format.md).

Header text sits in small frames of its own, each extent's payload in a frame of its own. The frames of a blob,
decompressed one after the other, are exactly one sparse stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import zstandard
from blake3 import blake3

from pitr.errors import FormatError
from pitr.formats import sparse

DEFAULT_LEVEL = 1
#: Frames are cut at multiples of this many bytes of the disk. One more size of frame is never needed in memory
#: than one per worker; larger ones compress hardly better and make small reads of a point dearer.
FRAME_SIZE = 1 << 20
MAX_FRAME_SIZE = 1 << 24
#: Header text is put in a frame of its own at least this often, so that a long run of zero extents stays small
#: in memory too.
_HEADER_TEXT_LIMIT = 1 << 16
#: Up to this size, copying a frame costs less than one more write and one more update of the digest.
_COPIED = 1 << 16


def digest_of(data: bytes | memoryview) -> bytes:
    """BLAKE3, 32 bytes."""
    return blake3(data).digest()


class Compressor:
    """Compresses frames; one for each thread."""

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return self._zstd.compress(data)


class Plain:
    """Leaves frames as they are, for streams that are piped out without compression."""

    def compress(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data)


class Decompressor:
    """Decompresses frames; one for each thread."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def decompress(self, frame: bytes, length: int) -> bytes:
        """Decompress one frame that must hold exactly `length` bytes and be followed by nothing.

        zstd's own checksum is compared on the way. Raises FormatError; nothing is allocated for a frame that
        claims another length.
        """
        try:
            parameters = zstandard.get_frame_parameters(frame)
            if parameters.content_size != length:
                raise FormatError(f"a frame says that it holds {parameters.content_size} bytes, not {length}")
            if not parameters.has_checksum:
                raise FormatError("a frame has no checksum")
            data: bytes = self._zstd.decompress(frame, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError(f"a frame cannot be decompressed: {error}") from None
        if len(data) != length:
            raise FormatError(f"a frame holds {len(data)} bytes, not {length}")
        return data

    def first_text(self, frames: bytes, limit: int) -> bytes:
        """Decompress the header text frame that `frames` begin with, of at most `limit` bytes."""
        try:
            if zstandard.get_frame_parameters(frames).content_size > limit:
                raise FormatError("the first frame is larger than header text is")
            return self._zstd.decompress(frames)
        except zstandard.ZstdError as error:
            raise FormatError(f"the first frame cannot be decompressed: {error}") from None

    def decompress_text(self, frames: bytes, limit: int) -> bytes:
        """Decompress header text: one or more frames, of at most `limit` bytes in all."""
        text = b""
        while frames:
            try:
                claimed = zstandard.get_frame_parameters(frames).content_size
                if claimed > limit - len(text):
                    raise FormatError(f"header text claims {claimed} bytes")
                # A frame can hold far more than it claims. In one go, that is an error; piece by piece, as is
                # needed to find the end of the frame, zstd would notice it after giving it all out.
                text += self._zstd.decompress(frames)
                machine = self._zstd.decompressobj()
                machine.decompress(frames)
            except zstandard.ZstdError as error:
                raise FormatError(f"header text cannot be decompressed: {error}") from None
            if not machine.eof:
                raise FormatError("header text is cut off")
            frames = machine.unused_data
        return text


class BlobWriter:
    """Puts a blob together, extent by extent in the order of the disk.

    `write` takes the bytes of the blob, piece by piece. Offsets that are given back are offsets in the blob. Not
    `compressed`, it is the plain sparse stream.
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
        """Add a data extent of `length` bytes whose payload is compressed as `frame`; return the frame's offset."""
        self._text += sparse.data_header(start, length)
        text = self._taken_text()
        offset = self.size + len(text)
        if len(frame) <= _COPIED:
            self._put(text + frame)
        else:
            self._put(text)
            self._put(frame)
        self._text += sparse.TAIL
        return offset

    def add_zero(self, start: int, length: int) -> None:
        self._text += sparse.zero_header(start, length)
        if len(self._text) >= _HEADER_TEXT_LIMIT:
            self._put(self._taken_text())

    def finish(self) -> str:
        """End the stream; return the digest of the whole blob in hex."""
        self._text += sparse.STOP
        self._put(self._taken_text())
        return self._digest.hexdigest()

    def _taken_text(self) -> bytes:
        """The header text so far, as a frame."""
        frame = self._compressor.compress(self._text)
        self._text.clear()
        return frame

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._digest.update(data)
        self.size += len(data)
