# SPDX-License-Identifier: GPL-2.0-or-later
"""Detection of a stream's format."""

from __future__ import annotations

from typing import BinaryIO, Literal, cast

import orjson

from pitr.endpoints.streams.input import PutBack, unpacked
from pitr.endpoints.streams.rbd_diff import RbdDiffSource
from pitr.endpoints.streams.sparse import SparseStreamSource
from pitr.endpoints.streams.virtnbdbackup import VirtnbdbackupSource
from pitr.errors import FormatError
from pitr.formats import virtnbdbackup
from pitr.formats.sparse import HEADER_SIZE, MAX_META_SIZE, parse_header

InputFormat = Literal["sparse", "rbd-diff", "virtnbdbackup"]
KnownSource = SparseStreamSource | RbdDiffSource | VirtnbdbackupSource


def open_stream(stream: BinaryIO, expected: InputFormat | None = None) -> KnownSource:
    """Return the source for the format of `stream`, compressed with zstd or not. The caller closes `stream`.

    Raises FormatError when the format is unknown or is not the `expected` one.
    """
    plain = unpacked(stream)
    head = _read(plain, HEADER_SIZE)
    if head.startswith(b"rbd diff v"):
        stream_format: InputFormat = "rbd-diff"
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
