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
    """Return the part that a "Range" header asks for: a range, "all", or "none" when it is outside `size` bytes.

    As the RFC allows, ignore a header with several ranges, other units or a wrong form.
    """
    match = _SINGLE.fullmatch(header or "")
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
