# SPDX-License-Identifier: GPL-2.0-or-later
"""Points over time: nothing is lost when many are taken together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.jobs.diff.history import MOST_BARS, average, bars, rates
from pitr.model import Backup
from tests.support.points import FIRST_POINT, backup_of, disk_id, fake_stream


def _points(hours: list[float], changed: list[int], *, full_every: int = 0) -> list[Backup]:
    made: list[Backup] = []
    at = FIRST_POINT
    for number, (pause, size) in enumerate(zip(hours, changed, strict=True)):
        at += timedelta(hours=pause)
        is_full = not made or (full_every and number % full_every == 0)
        parent = None if is_full else made[-1]
        stream = replace(
            fake_stream(parent=parent.streams[0].stream_id if parent else None), data_bytes=size, zero_bytes=0
        )
        made.append(backup_of([stream], point=at, parent_id=parent.backup_id if parent else None))
    return made


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1 << 40)), min_size=2, max_size=60),
    st.integers(0, 5),
)
def test_rates_add_up_to_what_the_incrementals_hold(steps: list[tuple[float, int]], full_every: int) -> None:
    points = _points([step[0] for step in steps], [step[1] for step in steps], full_every=full_every)
    incrementals = [point for point in points if point.parent_id is not None]
    found = rates(points, disk_id(0))
    assert all(one.end == other.start for one, other in pairwise(found))
    total = sum(
        one.bytes_per_day * (one.end - one.start).total_seconds() / 86400
        for one in found
        if one.bytes_per_day is not None
    )
    assert total == pytest.approx(sum(point.streams[0].data_bytes for point in incrementals), rel=1e-6, abs=1)
    known = sum((one.end - one.start).total_seconds() for one in found if one.bytes_per_day is not None)
    if incrementals:
        assert average(found) == pytest.approx(total / known * 86400, rel=1e-6, abs=1)
    else:
        assert average(found) is None


@pytest.mark.parametrize(("count", "hours"), [(MOST_BARS, 1), (5000, 1), (20000, 24), (3000, 0.01)])
def test_many_points_are_taken_together(count: int, hours: float) -> None:
    points = _points([hours] * count, [1000] * count, full_every=100)
    made = bars(points)
    assert len(made) <= MOST_BARS
    assert sum(bar.points for bar in made) == count
    assert sum(bar.stored_bytes for bar in made) == sum(point.stored_bytes for point in points)
    assert sum(bar.changed_bytes for bar in made) == 1000 * count
    assert sum(bar.fulls for bar in made) == count // 100
    assert all(one.start <= one.backup.point <= max(one.end, one.start) for one in made)
    found = rates(points, disk_id(0))
    assert len(found) <= MOST_BARS
    known = [one.bytes_per_day for one in found if one.bytes_per_day is not None]
    assert known and all(rate == pytest.approx(1000 * 24 / hours, rel=1e-3) for rate in known)


def test_where_a_full_stands_no_rate_is_known() -> None:
    points = _points([1] * 6, [100] * 6, full_every=3)
    assert [one.bytes_per_day for one in rates(points, disk_id(0))] == [
        2400.0,
        2400.0,
        None,
        2400.0,
        2400.0,
    ]
    assert rates(points, "another disk") == []
    assert average([]) is None
