# SPDX-License-Identifier: GPL-2.0-or-later
"""The oVirt sparse stream: a disk as a sequence of headers and data (docs/format.md).

A header is 40 bytes, `b"%s %016x %016x\\r\\n"`: a kind of four letters, start and length. The stream begins with
`meta`, `length` bytes of JSON and CR LF. `length` bytes and CR LF follow a `data` header. Nothing follows `zero` and
`stop` headers.
Source: the example program in ovirt-imageio's repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from pitr.errors import FormatError
from pitr.extents import MAX_SIZE
from pitr.formats.reading import read_exactly

HEADER_SIZE = 40
MAX_META_SIZE = 1 << 20
TAIL = b"\r\n"

_DATA, _ZERO, _META, _STOP = b"data", b"zero", b"meta", b"stop"
_HEX = frozenset(b"0123456789abcdefABCDEF")


def data_header(start: int, length: int) -> bytes:
    """Return the header before `length` bytes of data and TAIL."""
    return b"data %016x %016x\r\n" % (start, length)


def zero_header(start: int, length: int) -> bytes:
    """Return the header of a zero range."""
    return b"zero %016x %016x\r\n" % (start, length)


def meta_block(meta: Mapping[str, Any]) -> bytes:
    """Return the `meta` header with its JSON and TAIL."""
    body = orjson.dumps(meta)
    return b"meta %016x %016x\r\n" % (0, len(body)) + body + TAIL


STOP = b"stop %016x %016x\r\n" % (0, 0)


@dataclass(frozen=True, slots=True)
class Header:
    """The range of a `data` or `zero` header, in bytes."""

    zero: bool
    start: int
    length: int


def parse_header(block: bytes) -> tuple[bytes, int, int]:
    """Return (kind, start, length) of a 40-byte header.

    Raises FormatError for a malformed header and for a range that no disk has.
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
        raise FormatError(f"a header has an impossible range: {block!r}")
    return kind, at, count


class SparseReader:
    """Reads a sparse stream front to back from a binary file object, which the caller closes.

    Iterate over its headers in order. After a `data` header, `read` exactly its bytes before the next header. Raises
    FormatError unless the stream is complete and well-formed, with ascending ranges within the virtual size.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0
        #: How many bytes of the stream were read.
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
                raise FormatError(f"the extent at {start} is empty")
            if start < end:
                raise FormatError(
                    f"the extent at {start} begins before {end}, the end of the extent before it"
                )
            if start > end and not self.incremental:
                raise FormatError(f"a full stream has a gap from {end} to {start}")
            end = start + length
            if end > self.virtual_size:
                raise FormatError(f"the extent at {start} exceeds the disk of {self.virtual_size} bytes")
            self._left = length if kind == _DATA else 0
            yield Header(kind == _ZERO, start, length)

    def read(self, length: int) -> bytes:
        """Read exactly `length` bytes of the current data extent."""
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
        data = read_exactly(self._stream.read, length)
        self.position += length
        return data


def _parse_meta(body: bytes) -> dict[str, Any]:
    try:
        meta = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the meta header is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise FormatError("the meta header is not a JSON object")
    size = meta.get("virtual-size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise FormatError(f"the meta header has an invalid virtual-size: {size!r}")
    if not isinstance(meta.get("incremental"), bool):
        raise FormatError("the meta header does not state whether the stream is incremental")
    return meta
