# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import FormatError
from pitr.ovirt.imageio.extents import parse_extents

MIB = 1 << 20


def body(*rows: dict[str, Any]) -> bytes:
    return json.dumps(rows).encode()


def dirty(start: int, length: int, dirty: bool, zero: bool) -> dict[str, Any]:
    return {"start": start, "length": length, "dirty": dirty, "zero": zero}


def test_zeroes_since_the_checkpoint_are_kept_and_clean_extents_are_omitted() -> None:
    size, extents = parse_extents(
        body(
            dirty(0, 10, False, False),
            dirty(10, 10, True, True),
            dirty(20, 10, True, False),
            dirty(30, 10, False, True),
        ),
        "dirty",
    )
    assert size == 40
    assert [tuple(extent) for extent in extents] == [(10, 10, True), (20, 10, False)]


def test_the_zero_context_describes_the_whole_disk() -> None:
    rows = [
        {"start": 0, "length": 512, "zero": False, "hole": False},
        {"start": 512, "length": 512, "zero": True, "hole": False},
        {"start": 1024, "length": 512, "zero": True, "hole": True},
    ]
    size, extents = parse_extents(body(*rows), "zero")
    assert size == 1536
    assert [tuple(extent) for extent in extents] == [(0, 512, False), (512, 1024, True)]


GOOD = {"start": 0, "length": 512, "zero": False}


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[1]",
        b'[{"start": 0, "length": 512, "zero": fal',
        body({"start": 0, "length": 512}),
        body(GOOD | {"start": 512}),
        body(GOOD | {"start": -512}),
        body(GOOD | {"length": 0}),
        body(GOOD | {"length": 512.0}),
        body(GOOD | {"length": "512"}),
        body(GOOD | {"length": True}),
        body(GOOD | {"length": 1 << 62}),
        body(GOOD | {"length": (1 << 64) - 1}),
        body(GOOD | {"zero": 1}),
        body(GOOD, GOOD),
        body(GOOD, GOOD | {"start": 256}),
        body(GOOD, GOOD | {"start": 1024}),
    ],
)
def test_an_invalid_list_of_extents_is_refused(wrong: bytes) -> None:
    with pytest.raises(FormatError):
        parse_extents(wrong, "zero")


def test_a_list_of_zero_extents_is_not_a_dirty_list() -> None:
    with pytest.raises(FormatError, match="dirty"):
        parse_extents(body(GOOD), "dirty")


values = st.one_of(st.integers(-2, 1 << 64), st.booleans(), st.none(), st.text(max_size=2), st.floats())
rows = st.dictionaries(st.sampled_from(["start", "length", "zero", "dirty", "x"]), values)


@given(st.one_of(st.lists(rows, max_size=4), values, st.dictionaries(st.text(max_size=1), values)))
def test_any_json_is_either_refused_or_a_whole_disk(document: Any) -> None:
    try:
        size, extents = parse_extents(json.dumps(document).encode(), "zero")
    except FormatError:
        return
    assert extents.covers(size)
