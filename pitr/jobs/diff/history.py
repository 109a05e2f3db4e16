# SPDX-License-Identifier: GPL-2.0-or-later
"""The points of a VM over time: what each took, and how fast its disks change.

All from what the catalog knows. Of many points neighbours are taken together by day or longer, so that what is told
stays short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from pitr.model import Backup, Kind

#: As many bars as one can tell apart.
MOST_BARS = 400
_DAY_S = 86400.0
_SPANS_DAYS = (1, 7, 28, 364)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bar:
    """One or more neighbouring points: their number, what they stored, what their streams say of the disks, bytes.

    `backup`: the last one of them. `fulls`: how many of them are no incrementals.
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
    """How fast a disk changed between two moments: bytes a day, None where no incremental tells."""

    start: datetime
    end: datetime
    bytes_per_day: float | None


def bars(backups: Sequence[Backup]) -> list[Bar]:
    """All points, oldest first, in at most about MOST_BARS bars. `backups`: oldest first."""
    if len(backups) <= MOST_BARS:
        return [_bar(backup.point, backup.point, [backup]) for backup in backups]
    made: list[Bar] = []
    edges = _edges(backups)
    times = [backup.point for backup in backups]
    cuts = np.searchsorted(_seconds(times), _seconds(edges[1:-1]), side="left").tolist()
    for start, end, first, last in zip(edges[:-1], edges[1:], [0, *cuts], [*cuts, len(backups)], strict=True):
        if first < last:
            made.append(_bar(start, end, backups[first:last]))
    return made


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
    """How fast a disk changed, between each two points, or by day or longer where there are many. Oldest first.

    What an incremental holds has changed in the time since the point that it stands on. What an imported or full
    stream holds says nothing of that.
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
    """Up to each moment of `at`: the seconds that incrementals cover, and the bytes, spread evenly over each."""
    order = np.argsort(end, kind="stable")
    start, end, changed = start[order], end[order], changed[order]
    seconds = end - start
    known = np.zeros(len(at))
    total = np.zeros(len(at))
    # Chains that were branched, as by a restore, can overlap: each interval counts for itself.
    for moment, place in enumerate(at.tolist()):
        part = np.clip((place - start) / seconds, 0.0, 1.0)
        known[moment] = float((part * seconds).sum())
        total[moment] = float((part * changed).sum())
    return known, total


def average(found: Sequence[Rate]) -> float | None:
    """Bytes a day over all the time that is known."""
    seconds = bytes_changed = 0.0
    for rate in found:
        if rate.bytes_per_day is not None:
            span = (rate.end - rate.start).total_seconds()
            seconds += span
            bytes_changed += rate.bytes_per_day * span / _DAY_S
    return bytes_changed / seconds * _DAY_S if seconds else None


def _edges(backups: Sequence[Backup]) -> list[datetime]:
    """Local midnights around all points, a day apart, or more where that would be too many."""
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
