# SPDX-License-Identifier: GPL-2.0-or-later
"""Compute the history of a VM's points: their stored sizes, and how fast the disks change.

The catalog has all data for this. Many points are grouped by day or longer periods, so that the result stays short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from pitr.model import Backup, Kind

#: More bars would be too narrow to see.
MOST_BARS = 400
_DAY_S = 86400.0
_SPANS_DAYS = (1, 7, 28, 364)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bar:
    """One point or several consecutive ones. `stored_bytes` counts blobs, `changed_bytes` the streams' disk ranges.

    `backup` is the last of them; `fulls` counts the backups that are not incremental.
    """

    start: datetime
    end: datetime
    points: int
    fulls: int
    stored_bytes: int
    changed_bytes: int
    backup: Backup


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a disk changed between two moments: bytes a day, or None if no incremental covers that time."""

    start: datetime
    end: datetime
    bytes_per_day: float | None


def bars(backups: Sequence[Backup]) -> list[Bar]:
    """Return about MOST_BARS bars at most, which cover all `backups`; both are oldest first."""
    if len(backups) <= MOST_BARS:
        return [_bar(backup.point, backup.point, [backup]) for backup in backups]
    result: list[Bar] = []
    edges = _edges(backups)
    times = [backup.point for backup in backups]
    cuts = np.searchsorted(_seconds(times), _seconds(edges[1:-1]), side="left").tolist()
    for start, end, first, last in zip(edges[:-1], edges[1:], [0, *cuts], [*cuts, len(backups)], strict=True):
        if first < last:
            result.append(_bar(start, end, backups[first:last]))
    return result


def _bar(start: datetime, end: datetime, backups: Sequence[Backup]) -> Bar:
    return Bar(
        start,
        end,
        len(backups),
        sum(backup.kind is not Kind.INCREMENTAL for backup in backups),
        sum(backup.stored_bytes for backup in backups),
        sum(stream.data_bytes + stream.zero_bytes for backup in backups for stream in backup.streams),
        backups[-1],
    )


def rates(backups: Sequence[Backup], disk_id: str) -> list[Rate]:
    """Return the change rates of a disk between consecutive points, or by day or longer if there are many.

    An incremental holds what changed since the point it is based on. Full and imported streams show no changes. Both
    `backups` and the result are oldest first.
    """
    times: dict[str, datetime] = {}
    start: list[datetime] = []
    end: list[datetime] = []
    changed: list[int] = []
    for backup in backups:
        stream = backup.stream_of(disk_id)
        if stream is None:
            continue
        times[stream.stream_id] = backup.point
        since = times.get(stream.parent_stream_id or "")
        if since is not None and since < backup.point:
            start.append(since)
            end.append(backup.point)
            changed.append(stream.data_bytes + stream.zero_bytes)
    if not start:
        return []
    edges = sorted({*start, *end}) if len(start) < MOST_BARS else _edges(backups)
    at = _seconds(edges)
    known, total = _spread(_seconds(start), _seconds(end), np.array(changed, np.float64), at)
    return [
        Rate(first, last, bytes_changed / seconds * _DAY_S if seconds > 0 else None)
        for first, last, seconds, bytes_changed in zip(
            edges[:-1], edges[1:], np.diff(known).tolist(), np.diff(total).tolist(), strict=True
        )
    ]


def _spread(
    start: FloatArray, end: FloatArray, changed: FloatArray, at: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return for each moment of `at` the seconds that incrementals cover until then, and their bytes.

    The bytes of an incremental are spread evenly over its time.
    """
    order = np.argsort(end, kind="stable")
    start, end, changed = start[order], end[order], changed[order]
    seconds = end - start
    known = np.zeros(len(at))
    total = np.zeros(len(at))
    # Branched chains (after a restore, for example) can overlap: add up each interval separately.
    for moment, place in enumerate(at.tolist()):
        part = np.clip((place - start) / seconds, 0.0, 1.0)
        known[moment] = float((part * seconds).sum())
        total[moment] = float((part * changed).sum())
    return known, total


def average(rates: Sequence[Rate]) -> float | None:
    """Return the average rate in bytes a day, over all times with a known rate; None if there are none."""
    seconds = bytes_changed = 0.0
    for rate in rates:
        if rate.bytes_per_day is not None:
            span = (rate.end - rate.start).total_seconds()
            seconds += span
            bytes_changed += rate.bytes_per_day * span / _DAY_S
    return bytes_changed / seconds * _DAY_S if seconds else None


def _edges(backups: Sequence[Backup]) -> list[datetime]:
    """Return local midnights around all points, a day apart, or more days to have at most MOST_BARS periods."""
    first, last = backups[0].point, backups[-1].point
    days = (last - first).days + 2
    step = next((span for span in _SPANS_DAYS if days / span <= MOST_BARS), _SPANS_DAYS[-1])
    day = first.astimezone().date()
    edges: list[datetime] = []
    while not edges or edges[-1] <= last:
        edges.append(datetime(day.year, day.month, day.day).astimezone())
        day += timedelta(days=step)
    return edges


def _seconds(times: Sequence[datetime]) -> FloatArray:
    return np.array([time.timestamp() for time in times], np.float64)
