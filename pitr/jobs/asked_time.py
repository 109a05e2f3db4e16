# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the times that people type: what was typed names a span, not a moment.

A time typed to the minute covers that minute, and a date covers that day. Otherwise `--at 22:00` would miss the point
that the job of 22:00 made at 22:00:07.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from pitr import times
from pitr.errors import UsageError

_TICK = timedelta(microseconds=1)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_EXAMPLES = (
    "Write 2020-06-30T22:00 (local time), 2020-06-30T22:00Z, 2020-06-30, 22:00, yesterday, monday, -2h, "
    "@1593554400 or now."
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class AskedTime:
    """A time as it was typed: all moments in `[earliest, latest]` (UTC).

    `words` describes it for people. `newest`: the newest point there is, whatever the clocks say.
    """

    earliest: datetime
    latest: datetime
    words: str
    newest: bool = False

    @classmethod
    def moment(cls, moment: datetime, zone: tzinfo | None = None) -> AskedTime:
        """Return a single moment; `zone` is for its words."""
        return cls(moment, moment, times.for_people(moment, zone))

    def covers(self, moment: datetime) -> bool:
        """Return whether the moment is within what was typed. Nothing is within "now"."""
        return not self.newest and self.earliest <= moment <= self.latest

    @property
    def is_long(self) -> bool:
        """Return whether it is longer than a second, so that it can hold several points."""
        return self.latest - self.earliest >= timedelta(seconds=1)

    def age_s(self, moment: datetime) -> float:
        """Return how many seconds the moment is earlier than what was typed; 0 if it is not."""
        return max(0.0, (self.earliest - moment).total_seconds())


def parse(text: str, zone: tzinfo | None = None, now: datetime | None = None) -> AskedTime:
    """Read a TIME as people type it. Days and minutes are those of `zone` (None: this machine's).

    `now` is the time that relative times count from (None: the current time). Raises UsageError for other strings, for
    a date that has two readings, and for a local time that happened twice or never because the clock was changed.
    """
    return _TimeParser(text, zone, now or times.now()).read()


def to_type(moment: datetime, zone: tzinfo | None = None) -> str:
    """Return the TIME to type for a point of this moment: local time to the second, with an offset if it needs one."""
    local = moment.astimezone(zone).replace(tzinfo=None, microsecond=0, fold=0)
    try:
        _local_to_utc(local, "", zone)
    except UsageError:
        return moment.astimezone(zone).replace(microsecond=0).isoformat()
    return local.isoformat()


class _TimeParser:
    """Reads one string, form by form."""

    def __init__(self, text: str, zone: tzinfo | None, now: datetime) -> None:
        self._typed = text
        self._text = " ".join(text.split())
        self._lower = self._text.lower()
        self._zone = zone
        self._now = now

    def read(self) -> AskedTime:
        if self._lower in ("now", "latest"):
            return AskedTime(self._now, _END_OF_TIME, "now", newest=True)
        forms: tuple[Callable[[], AskedTime | None], ...] = (
            self._epoch,
            self._ago,
            self._time_of_day,
            self._named_day,
            self._refuse_other_dates,
            self._iso,
        )
        try:
            for form in forms:
                asked = form()
                if asked is not None:
                    return asked
        except (OverflowError, OSError, ValueError):
            raise UsageError(
                f"{self._typed!r} is out of range", "Give a year between 1971 and 9998."
            ) from None
        raise self._refusal()

    # The forms

    def _epoch(self) -> AskedTime | None:
        match = re.fullmatch(r"@(\d{1,12})(?:\.(\d{1,6}))?", self._text)
        if match is None:
            return None
        fraction = match[2] or ""
        start = datetime.fromtimestamp(int(match[1]), UTC) + int(fraction.ljust(6, "0")) * _TICK
        return self._span(start, _fraction_unit(fraction), times.for_people(start, self._zone))

    def _ago(self) -> AskedTime | None:
        match = re.fullmatch(r"-\s?(\d{1,6})\s?([a-z]+)", self._lower) or re.fullmatch(
            r"(\d{1,6}|an?)\s?([a-z]+) ago", self._lower
        )
        if match is None:
            return None
        count, unit = match.groups()
        if unit == "m":
            raise UsageError(
                f"{self._typed!r} has two readings: minutes or months",
                f"Write -{count}min, or '{count} months ago'.",
            )
        length = _UNITS.get(unit)
        if length is None:
            return None
        moment = self._now - length * (1 if count in ("a", "an") else int(count))
        return AskedTime.moment(moment, self._zone)

    def _time_of_day(self) -> AskedTime | None:
        """Read a bare 22:00: the last one that has passed."""
        clock = _clock(self._text)
        if clock is None:
            return None
        local = self._now.astimezone(self._zone).replace(tzinfo=None, fold=0)
        day = local.date()
        if datetime.combine(day, clock[0]) > local:
            day -= timedelta(days=1)
        return self._local_span(datetime.combine(day, clock[0]), clock[1])

    def _named_day(self) -> AskedTime | None:
        """Read today, yesterday or a weekday, alone or with a time of day."""
        name, _, rest = self._lower.removeprefix("last ").partition(" ")
        day = self._day_named(name)
        if day is None or (self._lower.startswith("last ") and name in ("today", "yesterday")):
            return None
        if not rest:
            return self._day(day)
        clock = _clock(rest.removeprefix("at "))
        return self._local_span(datetime.combine(day, clock[0]), clock[1]) if clock else None

    def _day_named(self, name: str) -> date | None:
        today = self._now.astimezone(self._zone).date()
        if name in ("today", "yesterday"):
            return today - timedelta(days=int(name == "yesterday"))
        matches = [number for number, day in enumerate(_WEEKDAYS) if name in (day, day[:3])]
        # The last such day before today: on a Monday, "monday" is a week ago.
        return today - timedelta(days=(today.weekday() - matches[0] - 1) % 7 + 1) if matches else None

    def _refuse_other_dates(self) -> None:
        """Refuse dates such as 06/07/2026, with their readings."""
        match = re.fullmatch(r"(\d{1,4})[./-](\d{1,2})[./-](\d{1,4})(?:[ T](.+))?", self._text)
        if match is None or re.match(r"\d{4}-\d\d-\d\d(?!\d)", self._text):
            return
        clock = f"T{match[4]}" if match[4] else ""
        readings = [f"{reading}{clock}" for reading in _readings(*(match[part] for part in (1, 2, 3)))]
        if len(readings) > 1:
            raise UsageError(f"{self._typed!r} has several readings", f"Write {' or '.join(readings)}.")
        raise UsageError(f"{self._typed!r} is not a time", f"Write {readings[0]}." if readings else _EXAMPLES)

    def _iso(self) -> AskedTime | None:
        """Read ISO 8601, or the form of `times.for_people`."""
        shown, _, name = self._text.rpartition(" ")
        text = f"{shown}{name}" if name[:1] in ("+", "-") else self._text
        zone_name = name if name.isalpha() else ""
        if zone_name:
            text = shown
        try:
            day = _plain_date(text)
            if day is not None:
                return None if zone_name else self._day(day)
            if _ISO_WITH_TIME.match(text) is None:
                return None
            given = datetime.fromisoformat(text)
        except ValueError:
            return None
        unit = _unit_of(text)
        if zone_name:
            start = _named_to_utc(given, zone_name, self._zone)
            return self._span(start, unit, times.for_people(start, self._zone)) if start else None
        if given.tzinfo is not None:
            return self._span(given.astimezone(UTC), unit, text)
        return self._local_span(given, unit)

    def _refusal(self) -> UsageError:
        text = self._text
        if text.isdigit() and len(text) >= 9:
            return UsageError(
                f"{self._typed!r} is not a time",
                f"For seconds since 1970, write @{text}. For the id of a point, write --point {text}.",
            )
        if re.fullmatch(r"[0-9a-f]{4,8}|[0-9a-f]{8}-[0-9a-f-]{0,27}|[0-9a-f]{9,32}", self._lower):
            return UsageError(
                f"{self._typed!r} is not a time, but can be the id of a point", f"Write --point {text}."
            )
        return UsageError(f"{self._typed!r} is not a time", _EXAMPLES)

    # Spans

    def _span(self, start: datetime, unit: timedelta, words: str) -> AskedTime:
        return AskedTime(start, min(start, _END_OF_TIME - unit) + unit - _TICK, words)

    def _local_span(self, local: datetime, unit: timedelta) -> AskedTime:
        shown = f"{local:%Y-%m-%d %H:%M}" if not local.second and unit >= _MINUTE else local.isoformat(" ")
        return self._span(_local_to_utc(local, self._typed, self._zone), unit, shown)

    def _day(self, day: date) -> AskedTime:
        earliest = self._midnight(day)
        end = _END_OF_TIME if day == date.max else self._midnight(day + timedelta(days=1)) - _TICK
        if end < earliest:
            raise UsageError(f"the day {day} never happened because the clock was changed")
        return AskedTime(earliest, end, f"{day:%Y-%m-%d}")

    def _midnight(self, day: date) -> datetime:
        # If the clock skips midnight, this is the moment of the change; if midnight comes twice, the first one.
        return datetime.combine(day, time(), tzinfo=self._zone).astimezone(UTC)


_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_UNITS = {
    name: length
    for names, length in (
        ("s sec secs second seconds", timedelta(seconds=1)),
        ("min mins minute minutes", _MINUTE),
        ("h hr hrs hour hours", _HOUR),
        ("d day days", _DAY),
        ("w week weeks", 7 * _DAY),
        # As in the rules of `pitr prune`.
        ("mo month months", 30 * _DAY),
        ("y year years", 365 * _DAY),
    )
    for name in names.split()
}
_ISO_WITH_TIME = re.compile(r"[\dW-]{7,10}[T ]\d\d", re.IGNORECASE)


def _clock(text: str) -> tuple[time, timedelta] | None:
    """Return a time of day and its precision; None if the string is not one."""
    if re.fullmatch(r"\d{1,2}:\d\d(:\d\d([.,]\d{1,6})?)?", text) is None:
        return None
    padded = f"0{text}" if text[1] == ":" else text
    try:
        return time.fromisoformat(padded), _unit_of(f"T{padded}")
    except ValueError:
        return None


def _plain_date(text: str) -> date | None:
    """Return the date of a string such as 2020-06-30, 20200630 or 2020-W27-2; None if it is not a date alone."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d-?\d", text) is None:
        return None
    return date.fromisoformat(text)


def _unit_of(text: str) -> timedelta:
    """Return the precision of an ISO time of day after "T" or a space: the unit of its last digit."""
    clock = re.split(r"[T ]", text, maxsplit=1, flags=re.IGNORECASE)[-1]
    clock = re.split(r"[Z+-]", clock, maxsplit=1, flags=re.IGNORECASE)[0]
    whole, _, fraction = clock.replace(",", ".").partition(".")
    if fraction:
        return _fraction_unit(fraction)
    return {2: _HOUR, 4: _MINUTE}.get(len(whole.replace(":", "")), timedelta(seconds=1))


def _fraction_unit(fraction: str) -> timedelta:
    return timedelta(seconds=10 ** -min(len(fraction), 6))


def _readings(first: str, second: str, third: str) -> list[str]:
    """Return the ISO dates that three numbers can mean, without repetition."""
    orders = [(first, second, third)] if len(first) == 4 else [(third, second, first), (third, first, second)]
    if max(len(first), len(third)) <= 2:
        orders.append((first, second, third))
    found: dict[str, None] = {}
    for year, month, day in orders:
        if len(year) in (2, 4) and len(day) <= 2:
            try:
                found[f"{date(int(year) + (2000 if len(year) == 2 else 0), int(month), int(day))}"] = None
            except ValueError:
                continue
    return list(found)


def _named_to_utc(given: datetime, name: str, zone: tzinfo | None) -> datetime | None:
    """Return a local time with a zone name in UTC, also in the hour that happens twice.

    Return None unless the name is UTC or the local zone's at that time, because names such as CST are ambiguous.
    """
    if given.tzinfo is not None:
        return None
    if name == "UTC":
        return given.replace(tzinfo=UTC)
    for fold in (0, 1):
        try:
            utc = given.replace(fold=fold, tzinfo=zone).astimezone(UTC)
            local = utc.astimezone(zone)
        except (OverflowError, OSError, ValueError):
            return None
        if local.replace(tzinfo=None, fold=0) == given and local.tzname() == name:
            return utc
    return None


def _local_to_utc(local: datetime, text: str, zone: tzinfo | None) -> datetime:
    first, second = (local.replace(fold=fold, tzinfo=zone).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    readings = " or ".join(
        f"{reading.astimezone(zone).isoformat(timespec='minutes' if not local.second else 'auto')}"
        for reading in sorted((first, second))
    )
    exists = first.astimezone(zone).replace(tzinfo=None, fold=0) == local.replace(fold=0)
    what = "happened twice" if exists else "never happened"
    raise UsageError(
        f"the local time {text} {what} because the clock was changed", f"Add the zone: {readings}."
    )
