# SPDX-License-Identifier: GPL-2.0-or-later
"""Points whose labels a wrong clock made: lineage decides which are newer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr import times
from pitr.jobs import point_order
from pitr.jobs.asked_time import AskedTime, parse
from pitr.jobs.find import point_at
from pitr.jobs.upkeep.retention import Retention, kept_by
from pitr.model import Backup, Record
from pitr.repository import Repository
from tests.support.points import VM, backup_of, fake_stream

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


def _chain(labels: Sequence[datetime]) -> list[Backup]:
    """Points with these labels, each based on the one before."""
    made: list[Backup] = []
    for number, label in enumerate(labels):
        parent = made[-1] if made else None
        stream = fake_stream(parent=parent.streams[0].stream_id if parent else None)
        made.append(
            backup_of(
                [stream],
                backup_id=f"{number:08}",
                point=label,
                parent_id=parent.backup_id if parent else None,
            )
        )
    return made


def _newest_first(points: Sequence[Backup]) -> list[Backup]:
    """In the order of the catalog: by their labels."""
    return sorted(points, key=lambda backup: backup.point, reverse=True)


def _kept(points: Sequence[Backup], **rules: int | str) -> set[str]:
    return set(kept_by(_newest_first(points), _retention(rules)))


def _kept_by_rule(points: Sequence[Backup], **rules: int | str) -> list[str]:
    """The points that a rule keeps itself."""
    reasons = kept_by(_newest_first(points), _retention(rules))
    return [name for name, by in reasons.items() if any(reason.startswith("keep-") for reason in by)]


def _retention(rules: Mapping[str, int | str]) -> Retention:
    return Retention.of({f"keep_{name}": value for name, value in rules.items()})


def test_a_child_is_never_older_than_its_parent() -> None:
    points = _chain([NOW - 3 * _HOUR, NOW - _HOUR, NOW - 2 * _HOUR, NOW - 1.5 * _HOUR, NOW])
    found = point_order.times_by_lineage(_newest_first(points), NOW)
    hours = [(NOW - found[backup.backup_id]) / _HOUR for backup in points]
    assert hours == [3, 1, 1, 1, 0]
    assert point_order.newest_first(_newest_first(points), NOW) == points[::-1]
    assert [child for child, _ in point_order.labelled_before_parent(points)] == [points[2]]


def test_a_label_of_the_future_is_as_old_as_the_oldest_point_based_on_it() -> None:
    points = _chain([NOW - 5 * _DAY, NOW + 300 * _DAY, NOW - 3 * _DAY, NOW - 2 * _DAY])
    found = point_order.times_by_lineage(points, NOW)
    assert [(NOW - found[backup.backup_id]) / _DAY for backup in points] == [5, 3, 3, 2]
    alone = _chain([NOW + _DAY])
    assert point_order.times_by_lineage(alone, NOW) == {alone[0].backup_id: NOW}


@given(st.lists(st.integers(-1000, 200), min_size=1, max_size=12), st.randoms())
def test_lineage_orders_any_labels(hours: list[int], chance: object) -> None:
    del chance
    points = _chain([NOW + hour * _HOUR for hour in hours])
    shown = point_order.newest_first(_newest_first(points), NOW)
    assert shown == points[::-1]
    found = point_order.times_by_lineage(points, NOW)
    assert all(found[backup.backup_id] <= NOW for backup in points)


def test_keep_last_keeps_the_newest_after_the_clock_went_back_an_hour() -> None:
    now = times.now()
    points = _chain([now - 10 * _HOUR, now - 9 * _HOUR, now - 9.9 * _HOUR, now - 9.8 * _HOUR])
    assert _kept_by_rule(points, last=1) == [points[3].backup_id]
    # All are of one chain, so the others are needed.
    assert _kept(points, last=1) == {backup.backup_id for backup in points}


def test_keep_within_counts_from_no_label_of_the_future() -> None:
    """A clock that was 60 days ahead for two points: none of the six may go."""
    now = times.now()
    labels = [now + 59 * _DAY, now + 60 * _DAY, *(now - hours * _HOUR for hours in (72, 48, 24, 1))]
    points = _chain(labels)
    assert _kept(points, within="14d") == {backup.backup_id for backup in points}
    # Also if the newest points are not based on those of the wrong clock.
    separate = [*_chain(labels[:2]), *(backup_of([fake_stream()], point=label) for label in labels[2:])]
    assert _kept(separate, within="14d") == {backup.backup_id for backup in separate}


def test_a_clock_that_was_wrong_in_the_past_takes_no_day_away() -> None:
    now = times.now().replace(hour=12)
    points = _chain([now - 30 * _DAY, now - 5 * _DAY, now - 29 * _DAY, now - 28 * _DAY])
    assert set(_kept_by_rule(points, within="14d")) == {backup.backup_id for backup in points[1:]}
    assert len(_kept(points, within="14d")) == 4
    assert _kept_by_rule(points, daily=1) == [points[3].backup_id]


@pytest.fixture
def set_back(repository: Repository) -> list[Backup]:
    """Points of 20:00 and 21:00; then the clock goes back by an hour: points of 20:30 and 20:45."""
    at = [datetime(2026, 11, 24, *clock, tzinfo=UTC) for clock in ((20, 0), (21, 0), (20, 30), (20, 45))]
    points = _chain(at)
    for backup in points:
        repository.commit(Record(backup, None))
    return points


def test_now_takes_the_newest_by_lineage(repository: Repository, set_back: list[Backup]) -> None:
    choice = point_at(repository.catalog, VM, parse("now"))
    assert choice.backup == set_back[3]
    assert "labels and lineage disagree" in choice.notes[0]


@pytest.mark.parametrize(
    ("clock", "number", "named"), [("20:10", 0, None), ("21:05", 1, 3), ("20:30", 2, 1), ("20:50", 3, 1)]
)
def test_a_written_time_says_when_labels_and_lineage_disagree(
    repository: Repository, set_back: list[Backup], clock: str, number: int, named: int | None
) -> None:
    moment = datetime.fromisoformat(f"2026-11-24T{clock}:00+00:00")
    choice = point_at(repository.catalog, VM, AskedTime.moment(moment))
    assert choice.backup == set_back[number]
    if named is None:
        assert choice.notes == ()
    else:
        assert "labels and lineage disagree" in choice.notes[0]
        assert set_back[named].backup_id in choice.notes[0]


def test_now_is_not_a_full_that_a_fast_clock_made_long_before(repository: Repository) -> None:
    now = times.now()
    wrong = _chain([now + 300 * _DAY, now - 3 * _DAY])
    right = backup_of([fake_stream()], backup_id="right", point=now - _HOUR)
    for backup in (*wrong, right):
        repository.commit(Record(backup, None))
    assert point_at(repository.catalog, VM, parse("now")).backup == right
