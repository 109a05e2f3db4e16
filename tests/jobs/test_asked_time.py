# SPDX-License-Identifier: GPL-2.0-or-later
"""Times as people type them: what was typed names a span."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pitr import times
from pitr.errors import UsageError
from pitr.jobs import asked_time
from pitr.jobs.asked_time import AskedTime

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
BEIRUT = ZoneInfo("Asia/Beirut")
HAVANA = ZoneInfo("America/Havana")
APIA = ZoneInfo("Pacific/Apia")
_ZONES = [BERLIN, NEW_YORK, LORD_HOWE, BEIRUT, HAVANA, ZoneInfo("UTC")]

#: A Wednesday, 22:30 in Berlin.
NOW = datetime(2026, 11, 25, 21, 30, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def _span(text: str, zone: ZoneInfo = BERLIN, now: datetime = NOW) -> tuple[str, str]:
    """The first and the last whole second of the span, in UTC."""
    asked = asked_time.parse(text, zone, now)
    return times.to_text(asked.earliest), times.to_text(asked.latest.replace(microsecond=0))


@pytest.mark.parametrize(
    ("text", "earliest", "latest"),
    [
        ("2026-11-25T22:00", "2026-11-25T21:00:00Z", "2026-11-25T21:00:59Z"),
        ("2026-11-25 22:00", "2026-11-25T21:00:00Z", "2026-11-25T21:00:59Z"),
        ("2026-11-25T22:00Z", "2026-11-25T22:00:00Z", "2026-11-25T22:00:59Z"),
        ("20261125T2200+0100", "2026-11-25T21:00:00Z", "2026-11-25T21:00:59Z"),
        ("2026-11-25T22", "2026-11-25T21:00:00Z", "2026-11-25T21:59:59Z"),
        ("2026-11-25T22:00:07", "2026-11-25T21:00:07Z", "2026-11-25T21:00:07Z"),
        ("2026-11-25 22:00:07 CET", "2026-11-25T21:00:07Z", "2026-11-25T21:00:07Z"),
        ("@1593554400", "2020-06-30T22:00:00Z", "2020-06-30T22:00:00Z"),
        ("2026-11-25", "2026-11-24T23:00:00Z", "2026-11-25T22:59:59Z"),
        ("20261125", "2026-11-24T23:00:00Z", "2026-11-25T22:59:59Z"),
        ("today", "2026-11-24T23:00:00Z", "2026-11-25T22:59:59Z"),
        ("yesterday", "2026-11-23T23:00:00Z", "2026-11-24T22:59:59Z"),
        ("Yesterday  22:00", "2026-11-24T21:00:00Z", "2026-11-24T21:00:59Z"),
        ("yesterday at 9:05", "2026-11-24T08:05:00Z", "2026-11-24T08:05:59Z"),
        # The last one that has passed.
        ("22:00", "2026-11-25T21:00:00Z", "2026-11-25T21:00:59Z"),
        ("22:30", "2026-11-25T21:30:00Z", "2026-11-25T21:30:59Z"),
        ("22:31", "2026-11-24T21:31:00Z", "2026-11-24T21:31:59Z"),
        ("9:05:30", "2026-11-25T08:05:30Z", "2026-11-25T08:05:30Z"),
        # The last such day before today, which is a Wednesday.
        ("tuesday", "2026-11-23T23:00:00Z", "2026-11-24T22:59:59Z"),
        ("thu", "2026-11-18T23:00:00Z", "2026-11-19T22:59:59Z"),
        ("Wednesday", "2026-11-17T23:00:00Z", "2026-11-18T22:59:59Z"),
        ("last monday", "2026-11-22T23:00:00Z", "2026-11-23T22:59:59Z"),
        ("monday 22:00", "2026-11-23T21:00:00Z", "2026-11-23T21:00:59Z"),
        ("-2h", "2026-11-25T19:30:00Z", "2026-11-25T19:30:00Z"),
        ("2 hours ago", "2026-11-25T19:30:00Z", "2026-11-25T19:30:00Z"),
        ("an hour ago", "2026-11-25T20:30:00Z", "2026-11-25T20:30:00Z"),
        ("-90min", "2026-11-25T20:00:00Z", "2026-11-25T20:00:00Z"),
        ("3 days ago", "2026-11-22T21:30:00Z", "2026-11-22T21:30:00Z"),
        ("-1w", "2026-11-18T21:30:00Z", "2026-11-18T21:30:00Z"),
    ],
)
def test_what_was_typed_covers_its_last_unit(text: str, earliest: str, latest: str) -> None:
    assert _span(text) == (earliest, latest)


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2020-06-30", BERLIN, 24),
        ("2020-10-25", BERLIN, 25),
        ("2020-03-29", BERLIN, 23),
        ("2020-04-05", LORD_HOWE, 24.5),
        ("2020-03-29", BEIRUT, 23),  # it has no midnight
        ("2020-11-01", HAVANA, 25),  # its midnight comes twice
        ("9999-12-31", NEW_YORK, 19),
    ],
)
def test_a_day_is_as_long_as_its_clock_makes_it(day: str, zone: ZoneInfo, hours: float) -> None:
    asked = asked_time.parse(day, zone)
    assert (asked.latest - asked.earliest + _TICK) == timedelta(hours=hours)


def test_a_day_that_never_happened_is_refused() -> None:
    with pytest.raises(UsageError, match="never happened"):
        asked_time.parse("2011-12-30", APIA)


@pytest.mark.parametrize("text", ["now", "NOW", " now ", "latest"])
def test_now_is_the_newest_point_whatever_its_label(text: str) -> None:
    asked = asked_time.parse(text, now=NOW)
    assert asked.newest and asked.earliest == NOW
    ahead = NOW + timedelta(days=400)
    assert asked.latest > ahead and asked.age_s(ahead) == 0 and not asked.covers(ahead)
    assert asked.age_s(NOW - timedelta(hours=1)) == 3600


def test_a_point_within_the_span_or_after_its_begin_has_no_age() -> None:
    asked = asked_time.parse("2026-11-25T22:00", BERLIN)
    assert asked.age_s(datetime(2026, 11, 25, 21, 0, 7, tzinfo=UTC)) == 0
    assert asked.age_s(datetime(2026, 11, 25, 20, 59, tzinfo=UTC)) == 60


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("06/07/2026", ["2026-07-06", "2026-06-07"]),
        ("6.7.2026", ["2026-07-06", "2026-06-07"]),
        ("06-07-2026", ["2026-07-06", "2026-06-07"]),
        ("06/07/2026 22:00", ["2026-07-06T22:00", "2026-06-07T22:00"]),
        ("06/07/26", ["2026-07-06", "2026-06-07", "2006-07-26"]),
        ("25/11/2026", ["2026-11-25"]),
        ("30.06.2020", ["2020-06-30"]),
        ("2026/11/25", ["2026-11-25"]),
        ("2020-6-3", ["2020-06-03"]),
        ("-30m", ["-30min", "30 months ago"]),
    ],
)
def test_other_dates_are_refused_with_their_readings(text: str, readings: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        asked_time.parse(text, BERLIN)
    assert all(reading in raised.value.advice for reading in readings)
    for reading in readings:
        asked_time.parse(reading, BERLIN)


@pytest.mark.parametrize("text", ["1c2d", "DEADBEEF", "1c2d3e4f-9f8e-4a00-b111-0123456789ab", "2020"])
def test_an_id_points_to_the_option_for_ids(text: str) -> None:
    with pytest.raises(UsageError, match="can be the id of a point") as raised:
        asked_time.parse(text, BERLIN)
    assert raised.value.advice == f"Write --point {text}."


def test_a_number_of_seconds_points_to_its_form() -> None:
    with pytest.raises(UsageError) as raised:
        asked_time.parse("1593554400")
    assert "@1593554400" in raised.value.advice and "--point 1593554400" in raised.value.advice


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
    assert times.to_text(asked_time.parse(text, zone).earliest) == utc


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/New_York"])
def test_a_time_without_a_zone_is_in_the_machine_s_zone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", name)
    time.tzset()
    try:
        local = datetime(2020, 6, 30, 22, tzinfo=ZoneInfo(name))
        assert asked_time.parse("2020-06-30T22:00").earliest == local
        assert times.for_people(local).startswith("2020-06-30 22:00:00 ")
    finally:
        monkeypatch.undo()
        time.tzset()


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
        asked_time.parse(text, zone)
    assert raised.value.advice == f"Add the zone: {readings[0]} or {readings[1]}."
    # Each reading that is shown can be typed, and the two are different moments.
    assert len({asked_time.parse(reading, zone).earliest for reading in readings}) == 2


def test_a_bare_time_that_happened_twice_is_refused_too() -> None:
    with pytest.raises(UsageError, match="twice"):
        asked_time.parse("02:30", BERLIN, datetime(2020, 10, 25, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "tomorrow",
        "last today",
        "22",
        "24:00",
        "22:00Z",
        "2020-06",
        "2020-W27",
        "2020-06-30T25:00",
        "2020-06-31",
        "-2",
        "2 fortnights ago",
        "@",
        "@-5",
        "yesterday noon",
    ],
)
def test_an_invalid_time_is_a_usage_error_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as raised:
        asked_time.parse(text, BERLIN)
    assert "2020-06-30T22:00" in raised.value.advice


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("0001-01-01T00:00+14:00", BERLIN),
        ("9999-12-31T23:59-14:00", BERLIN),
        ("0001-01-01", BERLIN),
        ("9999-12-31T23:00", NEW_YORK),
        ("@999999999999", BERLIN),
        ("-999999y", BERLIN),
    ],
)
def test_a_time_beyond_the_calendar_is_a_usage_error(text: str, zone: ZoneInfo) -> None:
    with pytest.raises(UsageError, match="out of range"):
        asked_time.parse(text, zone)


@pytest.mark.parametrize(
    "text", ["2020-03-29 02:30:00 CET", "2020-06-30 22:00 EST", "2020-06-30 CET", "Z UTC", "0001-01-01 CET"]
)
def test_a_time_with_a_foreign_zone_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        asked_time.parse(text, BERLIN)


_moments = st.datetimes(datetime(1975, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC))


@given(moment=_moments, zone=st.sampled_from(_ZONES))
# The hour that came twice, both times.
@example(moment=datetime(2020, 10, 25, 0, 30, tzinfo=UTC), zone=BERLIN)
@example(moment=datetime(2020, 10, 25, 1, 30, tzinfo=UTC), zone=BERLIN)
@example(moment=datetime(2020, 6, 30, 20, 0, 0, 1, tzinfo=UTC), zone=BERLIN)
def test_the_time_that_pitr_shows_for_a_point_covers_it(moment: datetime, zone: ZoneInfo) -> None:
    for shown in (times.for_people(moment, zone), asked_time.to_type(moment, zone), times.to_text(moment)):
        asked = asked_time.parse(shown, zone)
        assert asked.covers(moment) and asked.latest - asked.earliest < timedelta(seconds=1)


@given(moment=_moments, zone=st.sampled_from(_ZONES))
def test_each_moment_is_in_its_day_and_in_its_minute(moment: datetime, zone: ZoneInfo) -> None:
    local = moment.astimezone(zone)
    assert asked_time.parse(f"{local:%Y-%m-%d}", zone).covers(moment)
    with suppress(UsageError):  # it happened twice
        assert asked_time.parse(f"{local:%Y-%m-%dT%H:%M}", zone).covers(moment)


@given(day=st.dates(datetime(1975, 1, 1).date(), datetime(2037, 12, 30).date()), zone=st.sampled_from(_ZONES))
def test_days_touch_and_never_overlap(day: datetime, zone: ZoneInfo) -> None:
    first, second = (asked_time.parse(f"{day + timedelta(days=n):%Y-%m-%d}", zone) for n in (0, 1))
    assert first.latest + _TICK == second.earliest


@given(now=_moments, zone=st.sampled_from(_ZONES), hour=st.integers(0, 23), minute=st.integers(0, 59))
def test_a_bare_time_is_the_last_one_that_has_passed(
    now: datetime, zone: ZoneInfo, hour: int, minute: int
) -> None:
    try:
        asked = asked_time.parse(f"{hour:02}:{minute:02}", zone, now)
    except UsageError as error:
        assume("clock was changed" not in error.message)
        raise
    local = asked.earliest.astimezone(zone)
    assert (local.hour, local.minute, local.second) == (hour, minute, 0)
    assert timedelta() <= now - asked.earliest < timedelta(hours=25)


@given(st.text("0123456789:-+TZ @./agohdminsyetr", max_size=20))
def test_any_string_is_a_span_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        asked = asked_time.parse(text, BERLIN, NOW)
        assert isinstance(asked, AskedTime) and asked.earliest <= asked.latest
