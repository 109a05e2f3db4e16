# SPDX-License-Identifier: GPL-2.0-or-later
"""Range requests (RFC 9110, section 14): one range of bytes, or several in one multipart answer."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: More ranges, or ranges that together are longer than the disk, are refused as section 14.2 suggests.
MAX_RANGES = 64

_RANGES = re.compile(r"bytes[ \t]*=(.*)", re.IGNORECASE | re.DOTALL)
_ONE = re.compile(r"[ \t]*(\d{0,20})-(\d{0,20})[ \t]*")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `[start, end)` of `size`."""

    start: int
    end: int
    size: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def wanted_parts(header: str | None, size: int) -> list[ByteRange] | Literal["all", "none"]:
    """Return the ranges that a "Range" header asks for, in its order.

    Return "all" without a header, and for other units or a wrong form, which the RFC lets a server ignore. Return
    "none" if all ranges are outside `size` bytes, or if they are too many or too long.
    """
    match = _RANGES.fullmatch(header or "")
    if match is None:
        return "all"
    parts: list[ByteRange] = []
    for number, text in enumerate(match[1].split(",", MAX_RANGES)):
        part = _part(text, size)
        if part == "all":
            return "all"
        if number == MAX_RANGES:
            return "none"
        if part != "none":
            parts.append(part)
    if len(parts) > 1 and sum(part.end - part.start for part in parts) > size:
        return "none"
    return parts or "none"


def _part(text: str, size: int) -> ByteRange | Literal["all", "none"]:
    match = _ONE.fullmatch(text.partition(",")[0])
    if match is None or match[1] == match[2] == "":
        return "all"
    if match[1] == "":
        length = min(int(match[2]), size)
        return ByteRange(size - length, size, size) if length else "none"
    start = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return "all"
    return ByteRange(start, min(last + 1, size), size) if start < size else "none"


class Multipart:
    """The frame of a "multipart/byteranges" answer with several ranges (RFC 9110, section 14.6)."""

    def __init__(self, parts: Sequence[ByteRange], media_type: str) -> None:
        self._boundary = secrets.token_hex(16)
        self.parts = [
            (
                f"\r\n--{self._boundary}\r\ncontent-type: {media_type}\r\n"
                f"content-range: {part.content_range}\r\n\r\n".encode("ascii"),
                part,
            )
            for part in parts
        ]
        self.end = f"\r\n--{self._boundary}--\r\n".encode("ascii")

    @property
    def media_type(self) -> str:
        return f"multipart/byteranges; boundary={self._boundary}"

    @property
    def length(self) -> int:
        """The length of the whole answer in bytes."""
        return sum(len(head) + part.end - part.start for head, part in self.parts) + len(self.end)
