# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pitr import times
from pitr.errors import FormatError, UsageError

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


@pytest.mark.parametrize(
    ("text", "zone", "utc"),
    [
        ("2020-06-30T22:00Z", BERLIN, "2020-06-30T22:00:00Z"),
        ("2020-06-30T22:00+02:00", NEW_YORK, "2020-06-30T20:00:00Z"),
        ("2020-06-30T22:00", BERLIN, "2020-06-30T20:00:00Z"),
        ("2020-06-30 22:00:30.25", NEW_YORK, "2020-07-01T02:00:30.250000Z"),
        ("2020-06-30T22:00", LORD_HOWE, "2020-06-30T11:30:00Z"),
        ("  2020-06-30T22:00  ", BERLIN, "2020-06-30T20:00:00Z"),
        ("2020-06-30", BERLIN, "2020-06-29T22:00:00Z"),
        ("2020-01-15", BERLIN, "2020-01-14T23:00:00Z"),
        ("20200630T2200Z", BERLIN, "2020-06-30T22:00:00Z"),
        ("0001-01-01T00:00Z", NEW_YORK, "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", BERLIN, "9999-12-31T23:59:59Z"),
        # just before, at and just after the clock was changed
        ("2020-10-25T01:59:59", BERLIN, "2020-10-24T23:59:59Z"),
        ("2020-10-25T03:00", BERLIN, "2020-10-25T02:00:00Z"),
        ("2020-03-29T01:59:59", BERLIN, "2020-03-29T00:59:59Z"),
        ("2020-03-29T03:00", BERLIN, "2020-03-29T01:00:00Z"),
    ],
)
def test_a_time_is_read_with_its_zone_or_as_local_time(text: str, zone: ZoneInfo, utc: str) -> None:
    assert times.to_text(times.parse_at(text, zone)) == utc


def test_a_time_without_a_zone_is_in_the_machine_s_zone(machine_zone: ZoneInfo) -> None:
    local = datetime(2020, 6, 30, 22, tzinfo=machine_zone)
    assert times.parse_at("2020-06-30T22:00") == local
    assert times.for_people(local).startswith("2020-06-30 22:00:00 ")


@pytest.mark.parametrize("text", ["now", "NOW", " now ", "latest"])
def test_now_is_now(text: str) -> None:
    before = times.now()
    assert before <= times.parse_at(text) <= times.now()


@pytest.mark.parametrize(
    ("text", "zone", "what", "readings"),
    [
        ("2020-10-25T02:30", BERLIN, "twice", ("2020-10-25T02:30+02:00", "2020-10-25T02:30+01:00")),
        ("2020-10-25T02:30:15", BERLIN, "twice", ("2020-10-25T02:30:15+02:00", "2020-10-25T02:30:15+01:00")),
        ("2020-11-01T01:00", NEW_YORK, "twice", ("2020-11-01T01:00-04:00", "2020-11-01T01:00-05:00")),
        ("2020-04-05T01:45", LORD_HOWE, "twice", ("2020-04-05T01:45+11:00", "2020-04-05T01:45+10:30")),
        ("2020-03-29T02:30", BERLIN, "never", ("2020-03-29T01:30+01:00", "2020-03-29T03:30+02:00")),
        ("2020-03-08T02:00", NEW_YORK, "never", ("2020-03-08T01:00-05:00", "2020-03-08T03:00-04:00")),
        ("2020-10-04T02:15", LORD_HOWE, "never", ("2020-10-04T01:45+10:30", "2020-10-04T02:45+11:00")),
    ],
)
def test_an_ambiguous_or_skipped_local_time_is_refused_with_both_readings(
    text: str, zone: ZoneInfo, what: str, readings: tuple[str, str]
) -> None:
    with pytest.raises(UsageError, match=what) as raised:
        times.parse_at(text, zone)
    assert raised.value.advice == f"Add the zone: {readings[0]} or {readings[1]}."
    # Each reading that is shown can be typed, and the two are different moments.
    assert len({times.parse_at(reading, zone) for reading in readings}) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "22:00",
        "2020",
        "2020-06",
        "30.06.2020",
        "2020-06-30T25:00",
        "2020-06-31",
        "1593554400",
    ],
)
def test_an_invalid_time_is_a_usage_error_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as raised:
        times.parse_at(text, BERLIN)
    assert "2020-06-30T22:00" in raised.value.advice


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("0001-01-01T00:00+14:00", UTC),
        ("9999-12-31T23:59-14:00", UTC),
        ("0001-01-01", BERLIN),
        ("9999-12-31T23:00", NEW_YORK),
    ],
)
def test_a_time_beyond_the_calendar_is_a_usage_error(text: str, zone: ZoneInfo) -> None:
    with pytest.raises(UsageError, match="out of range"):
        times.parse_at(text, zone)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_ends_of_the_calendar_are_shown_in_any_zone(machine_zone: ZoneInfo, moment: datetime) -> None:
    del machine_zone
    for zone in (None, BERLIN, NEW_YORK):
        assert times.for_people(moment, zone)


@given(
    moment=st.datetimes(datetime(1975, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC)),
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("UTC")]),
)
# The hour that came twice, both times.
@example(moment=datetime(2020, 10, 25, 0, 30, tzinfo=UTC), zone=BERLIN)
@example(moment=datetime(2020, 10, 25, 1, 30, tzinfo=UTC), zone=BERLIN)
@example(moment=datetime(2020, 6, 30, 20, 0, 0, 1, tzinfo=UTC), zone=BERLIN)
def test_the_shown_time_of_a_point_finds_it(moment: datetime, zone: ZoneInfo) -> None:
    typed = times.parse_at(times.for_people(moment, zone), zone)
    assert moment <= typed < moment + timedelta(seconds=1)


@pytest.mark.parametrize(
    "text", ["2020-03-29 02:30:00 CET", "2020-06-30 22:00 EST", "2020-06-30 CET", "Z UTC", "0001-01-01 CET"]
)
def test_a_time_with_a_foreign_zone_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        times.parse_at(text, BERLIN)


def test_people_see_local_time_with_its_zone() -> None:
    moment = datetime(2020, 6, 30, 19, 59, 59, 1, tzinfo=UTC)
    assert times.for_people(moment, BERLIN, round_up=False) == "2020-06-30 21:59:59 CEST"
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
