# SPDX-License-Identifier: GPL-2.0-or-later
"""The oVirt sparse stream: a disk as a sequence of headers and data (docs/format.md).

A header is 40 bytes, `b"%s %016x %016x\\r\\n"`: a kind of four letters, start and length. `meta` comes first and is
followed by that many bytes of JSON and CR LF; `data` by that many bytes and CR LF; `zero` and `stop` by nothing.
Source: the example program in ovirt-imageio's repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from pitr.errors import FormatError
from pitr.extents import MAX_SIZE

HEADER_SIZE = 40
MAX_META_SIZE = 1 << 20
TAIL = b"\r\n"

_DATA, _ZERO, _META, _STOP = b"data", b"zero", b"meta", b"stop"
_HEX = frozenset(b"0123456789abcdefABCDEF")


def data_header(start: int, length: int) -> bytes:
    return b"data %016x %016x\r\n" % (start, length)


def zero_header(start: int, length: int) -> bytes:
    return b"zero %016x %016x\r\n" % (start, length)


def meta_block(meta: Mapping[str, Any]) -> bytes:
    """The whole `meta` header with its JSON."""
    body = orjson.dumps(meta)
    return b"meta %016x %016x\r\n" % (0, len(body)) + body + TAIL


STOP = b"stop %016x %016x\r\n" % (0, 0)


@dataclass(frozen=True, slots=True)
class Header:
    """One `data` or `zero` header: the range in bytes."""

    zero: bool
    start: int
    length: int


def parse_header(block: bytes) -> tuple[bytes, int, int]:
    """Take a 40-byte header apart: (kind, start, length).

    Raises FormatError when it is not one, or when its range cannot be one of a disk.
    """
    if len(block) < HEADER_SIZE:
        raise FormatError(f"the stream ends in a header ({len(block)} of {HEADER_SIZE} bytes)")
    kind, start, length = block[:4], block[5:21], block[22:38]
    if (
        kind not in (_META, _DATA, _ZERO, _STOP)
        or block[4:5] != b" "
        or block[21:22] != b" "
        or block[38:] != TAIL
        or not _HEX.issuperset(start)
        or not _HEX.issuperset(length)
    ):
        raise FormatError(f"not a header of a sparse stream: {block!r}")
    at, count = int(start, 16), int(length, 16)
    if at > MAX_SIZE or count > MAX_SIZE - at:
        raise FormatError(f"a header names an impossible range: {block!r}")
    return kind, at, count


class SparseReader:
    """Reads a sparse stream front to back from a binary file object, which the caller closes.

    Iterating gives its headers in order; after a `data` header exactly its bytes must be read with `read` before
    the next one. Raises FormatError on anything that is not a whole, well-formed stream: ranges that overlap, go
    back or go beyond the virtual size, a missing end, or an end before it is due.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0
        #: Bytes of the stream that were read.
        self.position = 0
        kind, _, length = parse_header(self._take(HEADER_SIZE))
        if kind != _META:
            raise FormatError("the stream does not begin with its meta header")
        if length > MAX_META_SIZE:
            raise FormatError(f"the meta header claims {length} bytes of JSON")
        self.meta = _parse_meta(self._take(length))
        self._expect_tail()
        self.virtual_size: int = self.meta["virtual-size"]
        self.incremental: bool = self.meta["incremental"]

    def __iter__(self) -> Iterator[Header]:
        end = 0
        while True:
            if self._left:
                raise FormatError(f"{self._left} bytes of an extent were not read")
            kind, start, length = parse_header(self._take(HEADER_SIZE))
            if kind == _STOP:
                if not self.incremental and end != self.virtual_size:
                    raise FormatError(f"a full stream ends at {end} of {self.virtual_size} bytes")
                return
            if kind == _META:
                raise FormatError("a second meta header")
            if length == 0:
                raise FormatError(f"an extent without length at {start}")
            if start < end:
                raise FormatError(f"the extent at {start} goes back behind {end}")
            if start > end and not self.incremental:
                raise FormatError(f"a full stream leaves out {end} to {start}")
            end = start + length
            if end > self.virtual_size:
                raise FormatError(f"the extent at {start} goes beyond the size of {self.virtual_size} bytes")
            self._left = length if kind == _DATA else 0
            yield Header(kind == _ZERO, start, length)

    def read(self, length: int) -> bytes:
        """Read exactly `length` of the bytes of the current data extent."""
        if length > self._left:
            raise ValueError(f"only {self._left} bytes are left of the extent")
        data = self._take(length)
        self._left -= length
        if self._left == 0 and length:
            self._expect_tail()
        return data

    def _expect_tail(self) -> None:
        if self._take(len(TAIL)) != TAIL:
            raise FormatError("an extent's data does not end with CR LF")

    def _take(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._stream.read(length)
            if not part:
                raise FormatError("the stream ends too early")
            parts.append(part)
            length -= len(part)
            self.position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _parse_meta(body: bytes) -> dict[str, Any]:
    try:
        meta = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the meta header is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise FormatError("the meta header is not a JSON object")
    size = meta.get("virtual-size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise FormatError(f"the meta header names no usable virtual-size: {size!r}")
    if not isinstance(meta.get("incremental"), bool):
        raise FormatError("the meta header does not say whether the stream is incremental")
    return meta
