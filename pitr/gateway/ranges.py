# SPDX-License-Identifier: GPL-2.0-or-later
"""Range requests (RFC 9110, section 14): a single range of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_SINGLE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,20})-(\d{0,20})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `[start, end)` of `size`."""

    start: int
    end: int
    size: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def wanted_part(header: str | None, size: int) -> ByteRange | Literal["all", "none"]:
    """What a header "Range" asks for: a part, all, or "none" when it lies outside of `size` bytes.

    Several ranges, other units and what is malformed count as if there were no header, as the RFC allows.
    """
    found = _SINGLE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return "all"
    if found[1] == "":
        length = min(int(found[2]), size)
        return ByteRange(size - length, size, size) if length else "none"
    start = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if found[2] and last < start:
        return "all"
    return ByteRange(start, min(last + 1, size), size) if start < size else "none"
