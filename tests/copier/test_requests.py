# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pitr.copier.requests import combine

SIZE = 4000
disk = bytes(i * 7 % 251 for i in range(SIZE))


@st.composite
def sorted_ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    cuts = sorted(draw(st.sets(st.integers(0, SIZE), max_size=24)))
    return [(start, end - start) for start, end in zip(cuts[::2], cuts[1::2], strict=False)]


@given(sorted_ranges(), st.integers(0, 300), st.integers(1, 900))
def test_requests_return_exactly_the_ranges(ranges: list[tuple[int, int]], gap: int, limit: int) -> None:
    brought = b""
    end = 0
    for span in combine(ranges, gap=gap, limit=limit):
        assert span.length <= limit
        assert span.start >= end, "nothing is read twice"
        end = span.start + span.length
        assert (span.start, end) == (span.pieces[0][0], sum(span.pieces[-1])), "nothing is read for nothing"
        brought += b"".join(disk[offset : offset + length] for offset, length in span.pieces)
    assert brought == b"".join(disk[start : start + length] for start, length in ranges)


def test_only_ranges_with_a_small_gap_share_a_request() -> None:
    found = list(combine([(0, 10), (20, 10), (41, 10)], gap=10, limit=100))
    assert [(span.start, span.length) for span in found] == [(0, 30), (41, 10)]


def test_a_long_range_is_cut() -> None:
    found = list(combine([(5, 250)], gap=10, limit=100))
    assert [(span.start, span.length) for span in found] == [(5, 100), (105, 100), (205, 50)]
