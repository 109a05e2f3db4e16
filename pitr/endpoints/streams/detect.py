# SPDX-License-Identifier: GPL-2.0-or-later
"""Detection of a stream's format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Literal, cast

import orjson

from pitr.endpoints.streams.input import PutBack, unpacked
from pitr.endpoints.streams.rbd_diff import RbdDiffSource
from pitr.endpoints.streams.sparse import SparseStreamSource
from pitr.endpoints.streams.virtnbdbackup import VirtnbdbackupSource
from pitr.errors import FormatError
from pitr.formats import rbd_export, virtnbdbackup
from pitr.formats.sparse import HEADER_SIZE, MAX_META_SIZE, parse_header

InputFormat = Literal["sparse", "rbd-diff", "virtnbdbackup"]
KnownSource = SparseStreamSource | RbdDiffSource | VirtnbdbackupSource


def open_stream(stream: BinaryIO, expected: InputFormat | None = None) -> KnownSource:
    """Return the source for the format of `stream`, compressed with zstd or not. The caller closes `stream`.

    Raises FormatError when the format is unknown or is not the `expected` one.
    """
    plain = unpacked(stream)
    head = _read(plain, HEADER_SIZE)
    stream_format: InputFormat
    if head.startswith(rbd_export.BANNER):
        plain = cast(BinaryIO, PutBack(head, plain))
        count = rbd_export.read_header(plain)
        if count != 1:
            raise FormatError(
                f"the stream holds {count - 1} snapshots of an image, not one disk",
                "Make points of them: pitr import.",
            )
        head, stream_format = b"", "rbd-diff"
    elif head.startswith(b"rbd diff v"):
        stream_format = "rbd-diff"
    elif head.startswith(b"meta "):
        _, _, length = parse_header(head)
        if length > MAX_META_SIZE:
            raise FormatError(f"the meta header claims {length} bytes of JSON")
        body = _read(plain, length)
        head += body
        stream_format = "virtnbdbackup" if _is_virtnbdbackup(body) else "sparse"
    else:
        raise FormatError(
            "the stream is not a sparse stream, an rbd diff or a virtnbdbackup stream"
            if head
            else "the stream is empty"
        )
    if expected not in (None, stream_format):
        raise FormatError(f"the format of the stream is {stream_format}, not {expected}")
    whole = cast(BinaryIO, PutBack(head, plain))
    if stream_format == "rbd-diff":
        return RbdDiffSource(whole)
    return SparseStreamSource(whole) if stream_format == "sparse" else VirtnbdbackupSource(whole)


def open_history(stream: BinaryIO) -> Iterator[RbdDiffSource] | None:
    """Return the diffs of an image that `rbd export --export-format 2` wrote, oldest first; None for another stream.

    Read each diff to its end before you take the next. The caller closes `stream`. Raises FormatError.
    """
    plain = unpacked(stream)
    head = _read(plain, len(rbd_export.BANNER))
    if head != rbd_export.BANNER:
        return None
    return _diffs(cast(BinaryIO, PutBack(head, plain)))


def _diffs(stream: BinaryIO) -> Iterator[RbdDiffSource]:
    count = rbd_export.read_header(stream)
    for number in range(count):
        yield RbdDiffSource(stream, alone=number == count - 1)


def _read(stream: BinaryIO, length: int) -> bytes:
    data = b""
    while len(data) < length and (part := stream.read(length - len(data))):
        data += part
    return data


def _is_virtnbdbackup(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and virtnbdbackup.is_meta(document)
