# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop over few rows of an index takes none for good that the arrays refuse, and takes what pitr writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pitr.errors import FormatError
from pitr.extents import ExtentMap
from pitr.repository.few_rows import totals_of_good_rows
from pitr.repository.index import OWN, Frames

Row = tuple[Any, ...]
_FRAME = 64
_DIGEST = bytes(32)


def _good_rows(pieces: list[tuple[int, int]]) -> list[Row]:
    """Return rows of a whole disk: each piece is a part (-1: zeroes, OWN, 1) and a length."""
    rows: list[Row] = []
    at, ends = 0, {OWN: 0, 1: 0}
    for part, wanted in pieces:
        # A frame does not cross a multiple of its largest size.
        length = min(wanted, _FRAME - at % _FRAME)
        if part < 0:
            rows.append((at, length, None, None, None, None, None, None))
        else:
            skip = 0 if part == OWN else min(1, at % _FRAME)
            rows.append((at, length, part, ends[part], 3, length + skip, skip, _DIGEST))
            ends[part] += 3
        at += length
    return rows


def _by_arrays(rows: list[Row], size: int, blob_sizes: dict[int, int], *, whole: bool) -> tuple[int, int]:
    """Return what the loop should. Raises FormatError, and TypeError, ValueError or OverflowError for other values."""
    extents = ExtentMap.of([(start, length, part is None) for start, length, part, *_ in rows])
    extents.checked(size, whole=whole)
    for part, blob_size in blob_sizes.items():
        of_part = [row for row in rows if row[2] == part]
        start, length, offset, stored, frame_length, skip = (
            np.array([row[number] for row in of_part], np.int64) for number in (0, 1, 3, 4, 5, 6)
        )
        digests = np.frombuffer(b"".join(row[7] for row in of_part), np.uint8)
        frames = Frames(start, length, offset, stored, frame_length, skip, digests)
        frames.check(_FRAME, blob_size, own=part == OWN)
    if any(row[2] is not None and row[2] not in blob_sizes for row in rows):
        raise FormatError("an unknown part")
    return extents.data_bytes, extents.zero_bytes


#: Disks with frames of both blobs and zeroes, also at the ends.
_DISKS = [
    [(OWN, 64), (-1, 64), (OWN, 10), (OWN, 54), (1, 64), (1, 20)],
    [(-1, 7), (1, 57), (OWN, 64), (1, 64), (-1, 64)],
    [(OWN, 64), (OWN, 64)],
    [(1, 5), (1, 59), (1, 3)],
    [(-1, 3)],
    [],
]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("pieces", _DISKS)
def test_the_loop_finds_what_the_arrays_find_after_each_change_of_a_value(
    pieces: list[tuple[int, int]], *, whole: bool
) -> None:
    rows = _good_rows(pieces)
    size = rows[-1][0] + rows[-1][1] if rows else 0
    sizes = {part: 3 * sum(row[2] == part for row in rows) for part in (OWN, 1)}
    assert _by_loop(rows, size, sizes, whole=whole) == _by_arrays(rows, size, sizes, whole=whole)
    for changed, changed_size in _changes(rows, size):
        found = _by_loop(changed, changed_size, sizes, whole=whole)
        try:
            expected = _by_arrays(changed, changed_size, sizes, whole=whole)
        except (FormatError, TypeError, ValueError, OverflowError):
            expected = None
        if found is not None:
            assert _has_whole_numbers(changed)
        if found is not None or _has_whole_numbers(changed):
            assert found == expected, (changed, changed_size)


def _has_whole_numbers(rows: list[Row]) -> bool:
    """Return whether each value has its type. The arrays take 2.0 for 2, the loop leaves it to them."""
    return all(
        all(type(value) is int for value in row[: 2 if row[2] is None else 7])
        and (row[2] is None or (type(row[7]) is bytes and len(row[7]) == 32))
        for row in rows
    )


def _by_loop(rows: list[Row], size: int, sizes: dict[int, int], *, whole: bool) -> tuple[int, int] | None:
    return totals_of_good_rows(rows, size, _FRAME, sizes, own=OWN, whole=whole)


def _changes(rows: list[Row], size: int) -> Iterator[tuple[list[Row], int]]:
    """Yield the rows with each change of one value, and of two that must fit each other."""
    for more in (-1, 1, 64):
        yield rows, size + more
    for number, row in enumerate(rows):
        yield [*rows[:number], *rows[number + 1 :]], size
        yield [*rows[:number], row, *rows[number:]], size
        for column, value in enumerate(row):
            for other in _other_values(value):
                yield [*rows[:number], (*row[:column], other, *row[column + 1 :]), *rows[number + 1 :]], size
        if row[2] is not None:
            start, length, part, offset, stored, frame_length, skip, digest = row
            for more in (-70, -1, 1, 70):
                for wrong in (
                    (start, length, part, offset, stored, frame_length + more, skip + more, digest),
                    (start, length, part, offset, stored, frame_length + more, skip, digest),
                    (start, length, part, offset + more, stored - more, frame_length, skip, digest),
                    (start, length + more, part, offset, stored, frame_length + more, skip, digest),
                ):
                    yield [*rows[:number], wrong, *rows[number + 1 :]], size


def _other_values(value: Any) -> list[Any]:
    if isinstance(value, bytes):
        return [b"\1" + bytes(31), bytes(31), bytes(33), None, 7, "t" * 32]
    near = [] if value is None else [value - 1, value + 1, value - _FRAME, value + _FRAME, float(value)]
    return [*near, -1, 0, 1, 2, 1 << 62, 1.5, None, "1", b""]


@pytest.mark.parametrize("part", [OWN, 1])
def test_pieces_of_one_frame_are_good_in_a_blob_of_another_stream_only(part: int) -> None:
    rows = [(0, 2, part, 0, 3, 6, 0, _DIGEST), (2, 2, part, 0, 3, 6, 2, _DIGEST)]
    found = totals_of_good_rows(rows, 4, _FRAME, {OWN: 3, 1: 3}, own=OWN, whole=True)
    assert found == ((4, 0) if part != OWN else None)
