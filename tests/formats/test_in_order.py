# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces in the order of the disk: wrong ones are refused, and adjacent zero ranges are joined."""

from __future__ import annotations

import pytest

from pitr.errors import FormatError
from pitr.formats.in_order import InOrder

Zeroes = list[tuple[int, int]]


@pytest.fixture
def told() -> Zeroes:
    return []


def order(told: Zeroes, *, whole: bool) -> InOrder:
    return InOrder(100, whole=whole, zero=lambda start, length: told.append((start, length)))


def test_adjacent_zero_ranges_are_reported_as_one_before_the_next_piece(told: Zeroes) -> None:
    pieces = order(told, whole=True)
    for start, length, zero in ((0, 10, True), (10, 20, True), (30, 10, False)):
        assert told == []
        pieces.next(start, length, zero=zero)
    assert told == [(0, 30)]
    pieces.next(40, 60, zero=True)
    assert told == [(0, 30)]
    pieces.finish()
    assert told == [(0, 30), (40, 60)]


def test_zero_ranges_with_a_gap_between_them_are_two(told: Zeroes) -> None:
    pieces = order(told, whole=False)
    pieces.next(5, 5, zero=True)
    pieces.next(11, 5, zero=True)
    pieces.finish()
    assert told == [(5, 5), (11, 5)]


@pytest.mark.parametrize(("start", "length"), [(0, 10), (9, 1), (10, 91), (101, 1)])
def test_pieces_out_of_order_or_beyond_the_end_are_refused(told: Zeroes, start: int, length: int) -> None:
    pieces = order(told, whole=False)
    pieces.next(0, 10, zero=False)
    with pytest.raises(FormatError, match="out of order or beyond the end"):
        pieces.next(start, length, zero=False)


@pytest.mark.parametrize("zero", [False, True])
def test_a_whole_disk_has_no_gaps(told: Zeroes, zero: bool) -> None:
    pieces = order(told, whole=True)
    pieces.next(0, 10, zero=True)
    with pytest.raises(FormatError, match="must not leave out 10 to 20"):
        pieces.next(20, 10, zero=zero)
    pieces = order(told, whole=True)
    pieces.next(0, 99, zero=zero)
    with pytest.raises(FormatError, match="must not end at 99 of 100"):
        pieces.finish()
