# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the page of `pitr diff --html`: one file that needs no network.

It consists of page.html, page.css, page.js and the data as JSON. page.js draws everything, and inserts names from
outside as text only. In addition, the page's security policy allows only this script and this style, and no address.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import orjson

from pitr import times
from pitr.endpoints.images.partial_file import PartialFile, file_errors
from pitr.jobs.diff import history
from pitr.jobs.diff.picture import Picture, cells_for, draw
from pitr.jobs.diff.two_points import DiskDiff
from pitr.model import Backup
from pitr.repository.catalog import Catalog
from pitr.repository.chain import ResolvedChain
from pitr.text import printable
from pitr.version import __version__

_MOST_TICKS = 7
_TICK_HOURS = (1, 3, 6, 12, 24, 48, 168, 336, 672, 2184, 4368, 8736)


class Page:
    """A new file: `finish` completes the page, `abort` removes it. Raises UsageError if the file exists."""

    def __init__(
        self,
        path: Path,
        catalog: Catalog,
        before: Backup,
        after: Backup,
        *,
        exact: bool = False,
        screens: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._partial = PartialFile(path)
        self._catalog = catalog
        self._before = before
        self._after = after
        self._exact = exact
        self._screens = screens
        self._most_cells = cells_for(len(after.streams))
        self._pictures: dict[str, Picture] = {}

    def add(self, disk: DiskDiff, resolved: ResolvedChain) -> None:
        """Draw one disk of the later point."""
        self._pictures[disk.disk_id] = draw(disk, resolved, self._most_cells)

    def finish(self, disks: Sequence[DiskDiff]) -> None:
        """Write the page of these disks. Raises PitrError."""
        backups = self._catalog.points(self._after.vm.id)[::-1]
        document = _document(self._before, self._after, disks, self._pictures, backups)
        document["exact"] = self._exact
        document["screens"] = self._screens
        page = render(f"{printable(self._after.vm.name)}: what changed", document)
        with file_errors(self._partial.path):
            self._partial.path.write_text(page, "utf-8")
        self._partial.commit()

    def abort(self) -> None:
        """Remove the incomplete file."""
        self._partial.abort()


def render(title: str, document: dict[str, Any]) -> str:
    """Return the page as HTML."""
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        title=html.escape(title),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        data=_in_script(document),
    )


def _part(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _in_script(document: dict[str, Any]) -> str:
    """Return JSON that is safe inside a script element: it contains no markup."""
    text = orjson.dumps(document).decode()
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


class _Times:
    """Converts times to milliseconds, and collects the text of each time in `labels`."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}

    def __call__(self, time: datetime) -> int:
        milliseconds = round(time.timestamp() * 1000)
        self.labels[str(milliseconds)] = times.for_people(time)
        return milliseconds


def _document(
    before: Backup,
    after: Backup,
    diffs: Sequence[DiskDiff],
    pictures: dict[str, Picture],
    backups: Sequence[Backup],
) -> dict[str, Any]:
    """Return the data of the page; page.js describes its lists."""
    clock = _Times()
    bars = history.bars(backups)
    chained = _Backups(clock)
    disks = [_disk(disk, pictures.get(disk.disk_id), backups, chained, clock) for disk in diffs]
    return {
        "vm": {"id": after.vm.id, "name": printable(after.vm.name)},
        "version": __version__,
        "made": times.for_people(times.now()),
        "before": _point(before, clock),
        "after": _point(after, clock),
        "disks": disks,
        "backups": chained.rows,
        "bars": [_bar(bar, clock) for bar in bars],
        "ticks": _ticks(bars[0].start, bars[-1].end),
        "times": clock.labels,
    }


def _point(backup: Backup, clock: _Times) -> dict[str, Any]:
    return {"id": backup.backup_id, "time": clock(backup.point), "kind": backup.kind.value}


def _bar(bar: history.Bar, clock: _Times) -> list[Any]:
    backup = bar.backup
    return [
        clock(bar.start),
        clock(bar.end),
        bar.points,
        bar.fulls,
        bar.stored_bytes,
        bar.changed_bytes,
        backup.backup_id,
        clock(backup.point),
    ]


class _Backups:
    """The backups that disks read from; each has one place in `rows`."""

    def __init__(self, clock: _Times) -> None:
        self._clock = clock
        self._places: dict[str, int] = {}
        self.rows: list[dict[str, Any]] = []

    def place(self, backup: Backup) -> int:
        """Return the number of the backup's row; add the row if it is new."""
        if backup.backup_id not in self._places:
            self._places[backup.backup_id] = len(self.rows)
            self.rows.append(_point(backup, self._clock))
        return self._places[backup.backup_id]


def _disk(
    disk: DiskDiff,
    picture: Picture | None,
    backups: Sequence[Backup],
    chained: _Backups,
    clock: _Times,
) -> dict[str, Any]:
    rates = history.rates(backups, disk.disk_id)
    return {
        "id": disk.disk_id,
        "name": printable(disk.name),
        "state": disk.state,
        "note": printable(disk.note) if disk.note is not None else None,
        "size_before": disk.size_before,
        "size_after": disk.size_after,
        "data_bytes": disk.data_bytes,
        "new_bytes": disk.new_bytes,
        "zero_bytes": disk.zero_bytes,
        "extents": len(disk.changes),
        "picture": _picture(picture, chained) if picture is not None and picture.cells.count else None,
        "rates": [
            [
                clock(rate.start),
                clock(rate.end),
                None if rate.bytes_per_day is None else round(rate.bytes_per_day),
            ]
            for rate in rates
        ],
        "average": history.average(rates),
    }


def _picture(picture: Picture, chained: _Backups) -> dict[str, Any]:
    return {
        "cell": picture.cells.length,
        "size": picture.cells.size,
        "data": picture.data.tolist(),
        "never": picture.never_written.tolist(),
        "different_data": picture.different_data.tolist(),
        "different_zero": picture.different_zero.tolist(),
        "parts": [[number for part in parts for number in part] for parts in picture.parts],
        "links": [
            [
                link.layer,
                chained.place(link.backup),
                link.stream.kind.value,
                link.stream.stored_bytes,
                link.data_bytes,
                link.zero_bytes,
            ]
            for link in picture.links
        ],
        "unread": picture.unread,
        "never_written": picture.never_written_bytes,
    }


def _ticks(start: datetime, end: datetime) -> list[list[Any]]:
    """Return the labels of the time axis as [milliseconds, text], at full hours or midnights of local time."""
    hours = (end - start).total_seconds() / 3600
    step = next((step for step in _TICK_HOURS if hours / step <= _MOST_TICKS), _TICK_HOURS[-1])
    local = start.astimezone().replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    ticks: list[list[Any]] = []
    while (moment := local.astimezone()) <= end:
        if moment >= start:
            ticks.append([round(moment.timestamp() * 1000), _tick_text(local, step)])
        local += timedelta(hours=step)
    return ticks


def _tick_text(local: datetime, step_hours: int) -> str:
    if local.hour:
        return f"{local:%H:%M}"
    return f"{local:%b} {local.day}" if step_hours < 4368 else f"{local:%Y-%m-%d}"
