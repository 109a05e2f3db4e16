# SPDX-License-Identifier: GPL-2.0-or-later
"""A quick look at an index with few rows. Arrays would cost ten times as much: most incremental streams are small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def totals_of_good_rows(
    rows: Iterable[tuple[Any, ...]],
    size: int,
    frame_size: int,
    blob_sizes: Mapping[int, int],
    *,
    own: int,
    whole: bool,
) -> tuple[int, int] | None:
    """Return the bytes of data and of zeroes if all rows are good; None in doubt.

    The rows are (start, length, part, blob offset, blob length, frame length, skip, digest) in the order of the disk of
    `size` bytes. The rules are those of `ExtentMap.checked` and `Frames.check`, which also say what is wrong.
    `blob_sizes` are by part; the part `own` has whole frames only. `whole` rows leave no gap.
    """
    data = zero = at = 0
    behind = dict.fromkeys(blob_sizes, 0)
    last: dict[int, tuple[Any, ...]] = {}
    try:
        for start, length, part, offset, stored, frame_length, skip, digest in rows:
            if length <= 0 or start < at or (whole and start != at):
                return None
            at = start + length
            # SQLite keeps whatever a changed byte makes of a number. A sum of integers is an integer.
            if type(at) is not int:
                return None
            if part is None:
                zero += length
                continue
            data += length
            origin = start - skip
            end = offset + stored
            # The frame has at least the piece, and lies between two multiples of the frame size: so it is not too long,
            # and does not begin before the disk.
            frame = (offset, stored, frame_length, origin, digest)
            if (
                type(end + frame_length + skip + part) is not int
                or stored <= 0
                or end > blob_sizes[part]
                or not 0 <= skip <= frame_length - length
                or origin // frame_size != (origin + frame_length - 1) // frame_size
                or (part == own and (skip or frame_length != length))
                or (offset < behind[part] and (part == own or frame != last[part]))
                or type(digest) is not bytes
                or len(digest) != 32
            ):
                return None
            behind[part] = end
            last[part] = frame
    except (TypeError, KeyError):
        return None
    return (data, zero) if (at == size if whole else at <= size) else None
