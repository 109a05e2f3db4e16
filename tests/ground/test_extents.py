# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import FormatError
from pitr.extents import MAX_SIZE, ExtentMap
from tests.support.points import disk

_rows = st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=20)


def _map(parts: list[tuple[int, bool, bool]]) -> tuple[ExtentMap, str]:
    """Return the extents of (length, zero, gap before them) parts, and each byte of the disk as a letter."""
    rows: list[tuple[int, int, bool]] = []
    text = ""
    for length, zero, gap in parts:
        text += "-" if gap else ""
        rows.append((len(text), length, zero))
        text += ("0" if zero else "A") * length
    return ExtentMap.of(rows), text


def _text(extents: ExtentMap, size: int) -> str:
    letters = ["-"] * size
    for start, length, zero in extents:
        letters[start : start + length] = ("0" if zero else "A") * length
    return "".join(letters)


@given(_rows)
def test_merging_changes_no_byte_and_leaves_no_equal_neighbours(parts: list[tuple[int, bool, bool]]) -> None:
    extents, text = _map(parts)
    merged = extents.merged()
    assert _text(merged, len(text)) == text
    rows = list(merged)
    assert all(
        before.start + before.length < after.start or before.zero != after.zero
        for before, after in pairwise(rows)
    )
    assert (merged.data_bytes, merged.zero_bytes) == (text.count("A"), text.count("0"))


@given(_rows)
def test_a_map_covers_a_disk_only_without_gaps(parts: list[tuple[int, bool, bool]]) -> None:
    extents, text = _map(parts)
    assert extents.covers(len(text)) == ("-" not in text)
    assert not extents.covers(len(text) + 1)
    assert extents.checked(len(text), whole=False) is extents


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 8, False), (4, 8, False)],
        [(8, 4, False), (0, 4, False)],
        [(0, 0, False)],
        [(0, -4, False)],
        [(-4, 8, False)],
        [(12, 8, False)],
        [(17, 1, False)],
        [((1 << 63) - 1, (1 << 63) - 1, False)],
        [(0, (1 << 63) - 1, True)],
    ],
)
def test_ranges_that_no_disk_has_are_refused(rows: list[tuple[int, int, bool]]) -> None:
    with pytest.raises(FormatError):
        ExtentMap.of(rows).checked(16, whole=False)


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1, 1 << 63])
def test_sizes_that_no_disk_has_are_refused(size: int) -> None:
    with pytest.raises(FormatError, match="not possible"):
        ExtentMap.of([]).checked(size, whole=False)


def test_a_whole_disk_must_not_have_gaps() -> None:
    _, extents = disk("4:A 4:- 8:0")
    with pytest.raises(FormatError, match="do not cover"):
        extents.checked(16, whole=True)


def test_an_empty_disk_has_no_extents() -> None:
    assert len(ExtentMap.all_zero(0)) == 0
    assert ExtentMap.all_zero(0).covers(0)
    assert list(ExtentMap.all_zero(5)) == [(0, 5, True)]
