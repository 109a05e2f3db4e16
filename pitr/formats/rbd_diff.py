# SPDX-License-Identifier: GPL-2.0-or-later
"""Ceph's rbd diff, versions 1 and 2: a disk, or the changes between two of its snapshots, as a sequence of records.

All integers are little-endian. Metadata records come first: `f` and `t` name the first and last snapshot, `s` gives
the disk's size at the last. `w` records with data and `z` records for zeroes follow, and `e` ends the diff. Version 2
has the payload's length after each tag, so that a reader can skip unknown records.
Source: doc/dev/rbd-diff in Ceph's documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from pitr.errors import FormatError
from pitr.extents import MAX_SIZE
from pitr.formats.reading import read_exactly

Version = Literal[1, 2]

MAX_NAME = 4096
#: Ceph's reader allocates a whole `w` record at once.
MAX_WRITE = 8 << 20

_HEADERS: dict[Version, bytes] = {1: b"rbd diff v1\n", 2: b"rbd diff v2\n"}
_HEADER_SIZE = 12
#: Skipped records of version 2 are read in pieces of this size, so they take no memory.
_SKIP_PIECE = 1 << 20
_FROM, _TO, _SIZE, _WRITE, _ZERO, _END, _PROTECTED = b"f", b"t", b"s", b"w", b"z", b"e", b"p"
_U32, _U64, _RANGE = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<QQ")


def beginning(version: Version, size: int, *, from_snapshot: str | None, to_snapshot: str | None) -> bytes:
    """Return the header and the metadata records. Raises FormatError for names that Ceph does not accept."""
    parts = [_HEADERS[version]]
    for tag, name in ((_FROM, from_snapshot), (_TO, to_snapshot)):
        if name is None:
            continue
        encoded = name.encode()
        if not 0 < len(encoded) <= MAX_NAME:
            raise FormatError(f"a snapshot name must have 1 to {MAX_NAME} bytes, not {len(encoded)}")
        parts.append(_record(version, tag, _U32.pack(len(encoded)) + encoded))
    parts.append(_record(version, _SIZE, _U64.pack(size)))
    return b"".join(parts)


def write_header(version: Version, start: int, length: int) -> bytes:
    """Return the bytes of a `w` record before its data."""
    head = _WRITE if version == 1 else _WRITE + _U64.pack(_RANGE.size + length)
    return head + _RANGE.pack(start, length)


def zero_record(version: Version, start: int, length: int) -> bytes:
    """Return a `z` record."""
    return _record(version, _ZERO, _RANGE.pack(start, length))


def ending(version: Version) -> bytes:
    """Return the record that ends a diff."""
    return _END


def _record(version: Version, tag: bytes, payload: bytes) -> bytes:
    return tag + payload if version == 1 else tag + _U64.pack(len(payload)) + payload


@dataclass(frozen=True, slots=True)
class DiffRecord:
    """The range of a `w` or `z` record, in bytes."""

    zero: bool
    start: int
    length: int


class RbdDiffReader:
    """Reads an rbd diff front to back from a binary file object, which the caller closes.

    Iterate over its records in order. After a record with data, `read` exactly its bytes before the next record.
    Raises FormatError unless the diff is complete and well-formed, with ascending ranges within the disk.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0
        self.from_snapshot: str | None = None
        self.to_snapshot: str | None = None
        header = self._take(_HEADER_SIZE)
        versions = {text: version for version, text in _HEADERS.items()}
        if header not in versions:
            raise FormatError("not an rbd diff: its header is missing")
        self.version: Version = versions[header]
        size: int | None = None
        while (tag := self._take(1)) in (_FROM, _TO, _SIZE) or self._skips(tag):
            if tag == _SIZE:
                size = self._size()
            elif tag in (_FROM, _TO):
                self._name(tag)
        self._next = tag
        if size is None:
            raise FormatError("the rbd diff does not state the disk's size")
        self.size = size

    def __iter__(self) -> Iterator[DiffRecord]:
        end = 0
        tag = self._next
        while tag != _END:
            if tag in (_WRITE, _ZERO):
                record = self._range(tag, end)
                end = record.start + record.length
                self._left = 0 if record.zero else record.length
                yield record
                if self._left:
                    raise FormatError(f"{self._left} bytes of a record were not read")
            elif not self._skips(tag):
                raise FormatError(f"the rbd diff has an unexpected record {tag!r} among its data")
            tag = self._take(1)

    def read(self, length: int) -> bytes:
        """Read exactly `length` bytes of the current record."""
        if length > self._left:
            raise ValueError(f"only {self._left} bytes are left of the record")
        self._left -= length
        return self._take(length)

    def _skips(self, tag: bytes) -> bool:
        """Skip a record that pitr does not need; return False if `tag` begins another record."""
        if tag == _PROTECTED:
            self._payload(1)
            self._take(1)
            return True
        if self.version == 1 or tag in (_FROM, _TO, _SIZE, _WRITE, _ZERO, _END):
            return False
        left = _U64.unpack(self._take(_U64.size))[0]
        while left:
            left -= len(self._take(min(left, _SKIP_PIECE)))
        return True

    def _payload(self, length: int | None) -> int | None:
        """Return the payload's length in version 2, None in version 1. Raises FormatError if it is not `length`."""
        if self.version == 1:
            return None
        claimed: int = _U64.unpack(self._take(_U64.size))[0]
        if length is not None and claimed != length:
            raise FormatError(f"a record claims {claimed} bytes instead of {length}")
        return claimed

    def _size(self) -> int:
        self._payload(_U64.size)
        size: int = _U64.unpack(self._take(_U64.size))[0]
        if size > MAX_SIZE:
            raise FormatError(f"a disk cannot have {size} bytes")
        return size

    def _name(self, tag: bytes) -> None:
        claimed = self._payload(None)
        length = _U32.unpack(self._take(_U32.size))[0]
        if not 0 < length <= MAX_NAME or claimed not in (None, _U32.size + length):
            raise FormatError(f"a snapshot name claims {length} bytes")
        try:
            name = self._take(length).decode()
        except UnicodeDecodeError:
            raise FormatError("a snapshot name is not UTF-8") from None
        if tag == _FROM:
            self.from_snapshot = name
        else:
            self.to_snapshot = name

    def _range(self, tag: bytes, end: int) -> DiffRecord:
        claimed = self._payload(None if tag == _WRITE else _RANGE.size)
        start, length = _RANGE.unpack(self._take(_RANGE.size))
        if tag == _WRITE and claimed not in (None, _RANGE.size + length):
            raise FormatError(f"a record claims {claimed} bytes and {length} bytes of data")
        if length == 0:
            raise FormatError(f"the record at {start} is empty")
        if start < end:
            raise FormatError(f"the record at {start} begins before {end}, the end of the record before it")
        if start > self.size or length > self.size - start:
            raise FormatError(f"the record at {start} exceeds the disk of {self.size} bytes")
        return DiffRecord(tag == _ZERO, start, length)

    def _take(self, length: int) -> bytes:
        return read_exactly(self._stream.read, length, name="rbd diff")
