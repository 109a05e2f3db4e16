# SPDX-License-Identifier: GPL-2.0-or-later
"""Large disks are resolved part by part, with the same result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pitr.extents import ExtentMap
from pitr.repository import resolver
from pitr.repository.resolver import Layer, resolve


@st.composite
def _layer(draw: st.DrawFn) -> Layer:
    size = draw(st.integers(0, 80))
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=30)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    return Layer(ExtentMap.of([(start, end - start, draw(st.booleans())) for start, end in pairs]), size)


# The disk was smaller for a while: a row of its first point reaches into a part beyond that smaller size.
_SHRUNK = [
    Layer(ExtentMap.of([(60, 1, False), (70, 1, False)]), 80),
    Layer(ExtentMap.of([]), 30),
    Layer(ExtentMap.of([(0, 80, False)]), 80),
]


@example(_SHRUNK, 1)
@given(st.lists(_layer(), min_size=1, max_size=6), st.integers(1, 6))
def test_a_disk_that_is_resolved_in_parts_has_the_same_map(layers: list[Layer], part: int) -> None:
    whole = resolve(layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver, "_PART", part)
        patch.setattr(resolver, "_SAMPLE", 1)
        in_parts = resolve(layers)
    assert in_parts.size == whole.size
    for name in ("start", "length", "layer", "row", "zero"):
        np.testing.assert_array_equal(getattr(in_parts, name), getattr(whole, name))
