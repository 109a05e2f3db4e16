# SPDX-License-Identifier: GPL-2.0-or-later
"""The resolver, compared with a plain list of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.extents import ExtentMap
from pitr.repository.resolver import NEVER_WRITTEN, Layer, PointMap, resolve
from tests.support.points import disk

_Rows = list[tuple[int, int, bool]]
#: The origin of a byte of the point: (layer counted from the oldest, row); None for an unwritten byte.
_Origin = tuple[int, int] | None


@st.composite
def _extents(draw: st.DrawFn, size: int, *, whole: bool) -> ExtentMap:
    """Sorted, disjoint extents; small numbers, so that touching and overlapping layers are frequent."""
    rows: _Rows = []
    at = 0
    while at < size:
        length = draw(st.integers(1, max(1, min(12, size - at))))
        what = draw(st.sampled_from(["data", "zero"] if whole else ["data", "zero", "gap"]))
        if what != "gap":
            rows.append((at, length, what == "zero"))
        at += length
    return ExtentMap.of(rows)


@st.composite
def _chains(draw: st.DrawFn) -> list[Layer]:
    """A full and some incrementals, oldest first, each with its own size."""
    sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=7))
    return [
        Layer(draw(_extents(size, whole=number == 0)) if size else ExtentMap.of([]), size)
        for number, size in enumerate(sizes)
    ]


def _obvious(oldest_first: list[Layer]) -> list[_Origin]:
    """Replay the chain byte by byte: resize, then overwrite."""
    content: list[_Origin] = []
    for number, layer in enumerate(oldest_first):
        content = content[: layer.size] + [None] * (layer.size - len(content))
        for row, (start, length, _) in enumerate(layer.extents):
            content[start : start + length] = [(number, row)] * length
    return content


def _origins(point: PointMap, layers: int) -> list[_Origin]:
    origins: list[_Origin] = []
    for length, layer, row in zip(
        point.length.tolist(), point.layer.tolist(), point.row.tolist(), strict=True
    ):
        origin = None if layer == NEVER_WRITTEN else (layers - 1 - layer, row)
        origins += [origin] * length
    return origins


@given(_chains())
def test_each_byte_comes_from_the_newest_stream_that_wrote_it(oldest_first: list[Layer]) -> None:
    point = resolve(oldest_first[::-1])
    assert _origins(point, len(oldest_first)) == _obvious(oldest_first)


@given(_chains())
def test_each_byte_of_the_point_appears_exactly_once(oldest_first: list[Layer]) -> None:
    point = resolve(oldest_first[::-1])
    size = oldest_first[-1].size
    assert point.size == size
    assert (point.length > 0).all()
    assert point.extents().covers(size)
    ends = point.start + point.length
    assert point.start.tolist() == [0, *ends[:-1].tolist()] if size else len(point) == 0


@given(_chains())
def test_ranges_written_as_zero_or_never_are_zero(oldest_first: list[Layer]) -> None:
    point = resolve(oldest_first[::-1])
    newest_first = oldest_first[::-1]
    for layer, row, zero in zip(point.layer.tolist(), point.row.tolist(), point.zero.tolist(), strict=True):
        if layer == NEVER_WRITTEN:
            assert zero
            assert row == -1
        else:
            assert zero == bool(newest_first[layer].extents.zero[row])


def _resolved(*oldest_first: str) -> str:
    """Return the point of a chain, both as text. Layers are named a (oldest), b, c...; "." was never written."""
    layers = []
    for text in oldest_first:
        content, extents = disk(text)
        layers.append(Layer(extents, len(content)))
    point = resolve(layers[::-1])
    parts = []
    for length, layer, zero in zip(
        point.length.tolist(), point.layer.tolist(), point.zero.tolist(), strict=True
    ):
        name = "." if layer == NEVER_WRITTEN else chr(ord("a") + len(layers) - 1 - layer)
        parts.append(f"{length}:{name}{'0' if zero and name != '.' else ''}")
    return " ".join(parts)


def test_zeroes_written_after_the_full_hide_older_data() -> None:
    assert _resolved("8:A 8:B", "4:- 8:0 4:-") == "4:a 8:b0 4:a"


def test_an_empty_incremental_changes_nothing() -> None:
    assert _resolved("8:A 8:0", "16:-") == "8:a 8:a0"


def test_unwritten_new_space_is_zero() -> None:
    assert _resolved("8:A", "8:- 8:-") == "8:a 8:."


def test_a_shrink_clips_older_extents() -> None:
    assert _resolved("8:A 8:B", "4:-") == "4:a"


def test_data_removed_by_a_shrink_does_not_come_back_when_the_disk_grows() -> None:
    assert _resolved("16:A", "4:-", "16:-") == "4:a 12:."


def test_data_written_after_a_shrink_is_used() -> None:
    assert _resolved("16:A", "4:-", "8:- 4:B 4:-", "16:-") == "4:a 4:. 4:c 4:."


def test_an_extent_that_is_hidden_in_the_middle_appears_twice_and_is_one_row() -> None:
    content, extents = disk("32:A")
    _, change = disk("8:- 8:B 16:-")
    point = resolve([Layer(change, len(content)), Layer(extents, len(content))])
    assert point.layer.tolist() == [1, 0, 1]
    assert point.row.tolist() == [0, 0, 0]
    assert point.start.tolist() == [0, 8, 16]


def test_a_disk_of_size_zero_has_an_empty_map() -> None:
    assert len(resolve([Layer(ExtentMap.of([]), 0)])) == 0
    assert len(resolve([Layer(ExtentMap.of([]), 0), Layer(ExtentMap.all_zero(8), 8)])) == 0


def test_a_chain_needs_a_stream() -> None:
    with pytest.raises(ValueError, match="at least one stream"):
        resolve([])


@pytest.mark.parametrize("written", [(), (0,), (1999,), range(0, 2000, 7)])
def test_a_chain_of_two_thousand_tiny_streams(written: range) -> None:
    count = 2000
    oldest_first = [Layer(ExtentMap.all_zero(count), count)]
    for number in range(1, count + 1):
        rows = [(number - 1, 1, False)] if number - 1 in written else []
        oldest_first.append(Layer(ExtentMap.of(rows), count))
    point = resolve(oldest_first[::-1])
    assert _origins(point, len(oldest_first)) == _obvious(oldest_first)


def test_a_chain_whose_streams_grow_by_powers_of_two() -> None:
    newest_first = [
        Layer(ExtentMap.of((2 * at, 1, False) for at in range(1 << number)), 1 << 17) for number in range(16)
    ]
    point = resolve([*newest_first, Layer(ExtentMap.all_zero(1 << 17), 1 << 17)])
    counts = np.bincount(point.layer, minlength=17).tolist()
    assert counts[:16] == [1, *(1 << number for number in range(15))]


def test_millions_of_extents_are_resolved_as_arrays() -> None:
    count = 1_000_000
    at = np.arange(count, dtype=np.int64)
    full = ExtentMap(at * 1024, np.full(count, 1024, np.int64), np.zeros(count, np.bool_))
    change = ExtentMap(
        at[: count // 2] * 2048 + 512, np.full(count // 2, 512, np.int64), np.ones(count // 2, np.bool_)
    )
    point = resolve([Layer(change, count * 1024), Layer(full, count * 1024)])
    assert len(point) == count + count // 2
    assert int(point.length[point.zero].sum()) == count // 2 * 512
