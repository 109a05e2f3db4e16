# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that reads and writes times. Everything stored is UTC; people read and type local time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from pitr.errors import FormatError, UsageError


def now() -> datetime:
    return datetime.now(UTC)


def to_text(time: datetime) -> str:
    """UTC as in the JSON output and the records: 2020-06-30T22:00:00Z, with a fraction only where there is one."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def to_sortable(time: datetime) -> str:
    """UTC with a fixed number of digits, so that texts sort as times do."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def to_object_name(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def from_object_name(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def from_text(text: str) -> datetime:
    """Read a stored time. Raises FormatError when it is not one or has no zone."""
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


def for_people(time: datetime, zone: tzinfo | None = None, *, round_up: bool = True) -> str:
    """Local time with its zone, to the second: 2020-06-30 22:00:00 CEST.

    Up to the next second: the engine's points have fractions, and `--at` with the time that is shown for a point is
    to find that point, not the one before. Where nobody does that, as with the times of files, down.
    """
    try:
        if round_up and time.microsecond:
            time += timedelta(seconds=1)
        local = time.astimezone(zone)
    except (OverflowError, OSError, ValueError):
        # The first and the last hours that there are have no local time everywhere.
        local = time.astimezone(UTC)
    return f"{local:%Y-%m-%d %H:%M:%S} {_zone_name(local)}"


def _zone_name(local: datetime) -> str:
    name = local.tzname() or ""
    return name if name.isalpha() else f"{local:%z}"


def duration(seconds: float) -> str:
    """A span for people: 0.4 s, 12 s, 3 min 20 s, 5 h 2 min, 3 days 4 h."""
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


def parse_at(text: str, zone: tzinfo | None = None) -> datetime:
    """Read the TIME of `--at`: ISO 8601, local time where no zone is given, or as `for_people` shows it; "now" is now.

    `zone` stands for the machine's own when None. Raises UsageError when it is no time, or when the local time
    happened twice or never (a clock was changed): the message shows both readings.
    """
    if text.strip().lower() in ("now", "latest"):
        return now()
    shown, _, name = text.strip().rpartition(" ")
    try:
        if name.isalpha():
            return _named_to_utc(datetime.fromisoformat(shown), name, zone)
        time = datetime.fromisoformat(f"{shown}{name}" if name[:1] in ("+", "-") else text.strip())
    except (OverflowError, OSError, ValueError):
        raise UsageError(
            f"{text!r} is not a time",
            "Write 2020-06-30T22:00 (local time), 2020-06-30T22:00Z, 2020-06-30T22:00+02:00 or now.",
        ) from None
    try:
        return time.astimezone(UTC) if time.tzinfo is not None else _local_to_utc(time, text, zone)
    except (OverflowError, OSError, ValueError):
        raise UsageError(f"{text!r} is out of range", "Give a year between 1971 and 9998.") from None


def _named_to_utc(time: datetime, name: str, zone: tzinfo | None) -> datetime:
    """Read a local time whose zone is named as it is here then, also in the hour that happens twice; or UTC.

    Raises ValueError for other names: what is CST here may be something else where the time was written down.
    """
    if time.tzinfo is None and name == "UTC":
        return time.replace(tzinfo=UTC)
    for fold in (0, 1):
        utc = time.replace(fold=fold, tzinfo=zone).astimezone(UTC)
        local = utc.astimezone(zone)
        if local.replace(tzinfo=None, fold=0) == time and local.tzname() == name:
            return utc
    raise ValueError(f"not a time of {name}")


def _local_to_utc(time: datetime, text: str, zone: tzinfo | None) -> datetime:
    first, second = (time.replace(fold=fold, tzinfo=zone).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return first
    readings = " or ".join(
        f"{reading.astimezone(zone).isoformat(timespec='minutes' if not time.second else 'auto')}"
        for reading in sorted((first, second))
    )
    exists = first.astimezone(zone).replace(tzinfo=None, fold=0) == time.replace(fold=0)
    what = "happened twice" if exists else "never happened"
    raise UsageError(
        f"the local time {text} {what} (the clock was changed then)", f"Give it with its zone: {readings}."
    )


_SPAN = re.compile(r"(\d{1,6})([hdwmy])")
_UNITS = {
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "m": timedelta(days=30),
    "y": timedelta(days=365),
}


def parse_span(option: str, text: str) -> timedelta:
    """A span that was typed for `option`: 36h, 30d, 8w, 6m (of 30 days) or 1y (of 365 days). Raises UsageError."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"{option} is a span such as 36h, 30d, 8w, 6m or 1y, not {text!r}")
    return int(found[1]) * _UNITS[found[2]]
