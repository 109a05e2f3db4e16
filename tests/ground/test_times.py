# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr import times
from pitr.errors import FormatError

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")

_utc = st.datetimes(timezones=st.just(UTC))
_offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_anywhere = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=_offsets)


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/New_York"])
def machine_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZoneInfo]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield ZoneInfo(request.param)
    monkeypatch.undo()
    time.tzset()


@given(_anywhere)
def test_stored_times_round_trip(moment: datetime) -> None:
    assert times.from_text(times.to_text(moment)) == moment
    assert times.from_text(times.to_sortable(moment)) == moment
    assert times.from_text(times.to_text(moment)).tzinfo is UTC


@given(_utc, _utc)
def test_sortable_strings_sort_like_times(one: datetime, two: datetime) -> None:
    assert (times.to_sortable(one) < times.to_sortable(two)) == (one < two)


def test_a_stored_time_is_utc_with_a_fraction_only_if_it_is_not_zero() -> None:
    moment = datetime(2020, 6, 30, 22, tzinfo=BERLIN)
    assert times.to_text(moment) == "2020-06-30T20:00:00Z"
    assert times.to_text(moment + timedelta(microseconds=5)) == "2020-06-30T20:00:00.000005Z"
    assert times.to_object_name(moment) == "20200630T200000.000000Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2020-06-30T22:00:00",
        "2020-06-30",
        "2020-13-01T00:00:00Z",
        "2020-02-30T00:00:00Z",
        "2020-06-30T25:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        None,
        5,
    ],
)
def test_strings_that_are_not_stored_times_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        times.from_text(text)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_ends_of_the_calendar_are_shown_in_any_zone(machine_zone: ZoneInfo, moment: datetime) -> None:
    del machine_zone
    for zone in (None, BERLIN, NEW_YORK):
        assert times.for_people(moment, zone)


def test_people_see_local_time_with_its_zone() -> None:
    moment = datetime(2020, 6, 30, 20, 0, 0, 999999, tzinfo=UTC)
    assert times.for_people(moment, BERLIN) == "2020-06-30 22:00:00 CEST"
    assert times.for_people(moment, LORD_HOWE) == "2020-07-01 06:30:00 +1030"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (18120, "5 h 2 min"),
        (86400, "1 day"),
        (86400 + 4 * 3600, "1 day 4 h"),
        (3 * 86400 + 59, "3 days"),
    ],
)
def test_spans_for_people(seconds: float, text: str) -> None:
    assert times.duration(seconds) == text
