# SPDX-License-Identifier: GPL-2.0-or-later
"""Cells of a disk, against a list of bytes that does the obvious thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.extents import MAX_SIZE
from pitr.jobs.diff.cells import GRAIN, Cells


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 20_000)), max_size=12),
    st.integers(0, 200_000),
    st.integers(1, 40),
)
def test_each_cell_counts_its_own_bytes(gaps: list[tuple[int, int]], size: int, most: int) -> None:
    cells = Cells.of(size, most)
    disk = np.zeros(size, np.bool_)
    rows: list[tuple[int, int]] = []
    at = 0
    for gap, length in gaps:
        start, end = at + gap, min(at + gap + length, size)
        if start >= end:
            break
        rows.append((start, end - start))
        disk[start:end] = True
        at = end
    starts, lengths = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    obvious = [int(disk[n * cells.length : (n + 1) * cells.length].sum()) for n in range(cells.count)]
    assert cells.covered(starts, lengths).tolist() == obvious


@pytest.mark.parametrize(
    "size", [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 30) + 512, 20 << 30, 1 << 40, MAX_SIZE]
)
@pytest.mark.parametrize("round_length", [False, True])
def test_cells_cover_the_disk_once(size: int, round_length: bool) -> None:
    cells = Cells.of(size, 4096, round_length=round_length)
    assert cells.count <= 4096 and cells.length % GRAIN == 0
    assert int(cells.lengths().sum()) == size
    assert not cells.count or cells.lengths().min() > 0
    if round_length:
        assert cells.length.bit_count() == 1
