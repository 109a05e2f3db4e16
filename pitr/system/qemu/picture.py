# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of a guest's screen: read from PPM, compared, and written as PNG."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from pitr.errors import FormatError

_HEADER: Final = re.compile(rb"P6\s+([0-9]{1,5})\s+([0-9]{1,5})\s+255\s", re.ASCII)
_MAX_SIDE: Final = 16384
_RGB: Final = 2
#: The part of the screen in which a change is taken for a blinking cursor.
_CURSOR: Final = 24


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: rows of pixels of three bytes."""

    pixels: np.ndarray

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def is_like(self, other: Picture) -> bool:
        """Return whether the pictures are equal, apart from a cursor that blinks."""
        if self.pixels.shape != other.pixels.shape:
            return False
        rows, columns = np.nonzero((self.pixels != other.pixels).any(axis=2))
        return len(rows) == 0 or bool(np.ptp(rows) < _CURSOR and np.ptp(columns) < _CURSOR)

    def png(self, *, limit: int | None = None) -> bytes:
        """Return the picture as PNG; halved until it has at most `limit` bytes."""
        pixels = self.pixels
        encoded = _png(pixels)
        while limit is not None and len(encoded) > limit and min(pixels.shape[:2]) > 1:
            pixels = pixels[::2, ::2]
            encoded = _png(pixels)
        return encoded


def from_ppm(data: bytes) -> Picture:
    """Read a picture as qemu writes it. Raises FormatError."""
    header = _HEADER.match(data)
    if header is None:
        raise FormatError("the picture of the screen is not a PPM")
    width, height = int(header[1]), int(header[2])
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise FormatError(f"the picture of the screen has {width} x {height} pixels")
    if len(data) - header.end() < width * height * 3:
        raise FormatError("the picture of the screen is truncated")
    pixels = np.frombuffer(data, np.uint8, width * height * 3, header.end())
    return Picture(pixels.reshape(height, width, 3))


def _png(pixels: np.ndarray) -> bytes:
    height, width, _ = pixels.shape
    # Each row begins with its filter: none.
    rows = np.zeros((height, 1 + width * 3), np.uint8)
    rows[:, 1:] = pixels.reshape(height, width * 3)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
