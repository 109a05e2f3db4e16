# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and writing of times. Stored times are UTC; people read and type local time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from pitr.errors import FormatError, UsageError

_OBJECT_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def to_text(time: datetime) -> str:
    """Return UTC as in JSON output and records: 2020-06-30T22:00:00Z, with a fraction only if it is not zero."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def to_sortable(time: datetime) -> str:
    """Return UTC with a fixed number of digits, so that the strings sort like the times."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def to_object_name(time: datetime) -> str:
    """Return UTC as in the names of stored objects: 20200630T220000.000000Z."""
    return time.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def from_object_name(text: str) -> datetime | None:
    """Read a time written by `to_object_name`; return None for other strings."""
    try:
        if _OBJECT_NAME.fullmatch(text):
            # Ten times as fast, and there can be millions of names.
            return datetime.fromisoformat(f"{text[:-1]}+00:00").astimezone(UTC)
        return datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def from_text(text: str) -> datetime:
    """Read a stored time. Raises FormatError for other strings and for a time without a zone."""
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise FormatError(f"not a time: {text!r}") from error
    if time.tzinfo is None:
        raise FormatError(f"a time without a zone: {text!r}")
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise FormatError(f"a time out of range: {text!r}") from error


def for_people(time: datetime, zone: tzinfo | None = None) -> str:
    """Return local time with its zone, to the second: 2020-06-30 22:00:00 CEST.

    The fraction is cut off: `--at` with the shown time covers that second, and so finds the point.
    """
    try:
        local = time.astimezone(zone)
    except (OverflowError, OSError, ValueError):
        # The first and last hours of the calendar have no local time in some zones.
        local = time.astimezone(UTC)
    return f"{local:%Y-%m-%d %H:%M:%S} {_zone_name(local)}"


def _zone_name(local: datetime) -> str:
    name = local.tzname() or ""
    return name if name.isalpha() else f"{local:%z}"


def duration(seconds: float) -> str:
    """Return a time span for people: 0.4 s, 12 s, 3 min 20 s, 5 h 2 min, 3 days 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in (
        (86400, "days", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            high, rest = divmod(whole, unit)
            low = rest // smaller
            shown = f"{high} day" if (high, name) == (1, "days") else f"{high} {name}"
            return f"{shown} {low} {smaller_name}" if low else shown
    return f"{whole} s"


def time_of_day(zone: tzinfo | None = None) -> str:
    """Return the local time of day: 22:00:07."""
    return f"{now().astimezone(zone):%H:%M:%S}"


_WAIT = re.compile(r"(\d{1,6})\s*(s|min|m|h)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


def parse_wait(option: str, text: str) -> float:
    """Return the waiting time of `option` in seconds: 30s, 5m, 1h, or 0. Raises UsageError."""
    match = _WAIT.fullmatch(text.strip().lower())
    if match is None or (match[2] is None and int(match[1]) > 0):
        raise UsageError(f"{option} must be a time such as 30s, 5m, 1h or 0, not {text!r}")
    return float(int(match[1]) * _SECONDS[match[2] or "s"])


_SPAN = re.compile(r"(\d{1,6})(s|min|h|d|w|m|y)")
_UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "m": timedelta(days=30),
    "y": timedelta(days=365),
}


def parse_span(option: str, text: str) -> timedelta:
    """Return the time span of `option`: 36h, 30d, 8w, 6m (of 30 days) or 1y (of 365 days), also 90s or 10min.

    Raises UsageError.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"{option} must be a time span such as 36h, 30d, 8w, 6m or 1y, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]
