# SPDX-License-Identifier: GPL-2.0-or-later
"""What the records of the target say about streams: which are named, and which belong to removed points."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pitr import times
from pitr.model import Backup
from pitr.repository import Repository, removed_points
from pitr.repository.catalog import contents


@dataclass(slots=True)
class NamedStreams:
    """Which streams the records of the target name: their blobs are known to be whole."""

    target: Repository
    _by_disk: dict[str, set[str]] = field(default_factory=dict)
    _parts: dict[str, set[str]] = field(default_factory=dict)

    def has(self, disk_id: str, stream_id: str) -> bool:
        """Return whether a record names the stream, or its blob as a part."""
        if disk_id not in self._by_disk:
            self._by_disk[disk_id] = contents.streams_named(self.target.catalog, disk_id)
        if disk_id not in self._parts:
            self._parts[disk_id] = contents.parts_named(self.target.catalog, disk_id)
        return stream_id in self._by_disk[disk_id] or stream_id in self._parts[disk_id]

    def add(self, backup: Backup) -> None:
        """Note a new record."""
        for stream in backup.streams:
            self._by_disk.setdefault(stream.disk_id, set()).add(stream.stream_id)
            for part in stream.parts:
                # Else, the disk is asked for when it is needed.
                if part.disk_id in self._parts:
                    self._parts[part.disk_id].add(part.stream_id)


class HiddenStreams:
    """What the removed points of the target hold, whose objects may go at the end of their grace time."""

    def __init__(self, target: Repository) -> None:
        self._target = target
        self._ids: set[str] = set()
        self._asked: datetime | None = None

    def needs(self, backup: Backup) -> bool:
        """Return whether the point is based on a removed point of the target, or uses its frames."""
        if not self._target.removes_later:
            return False
        now = times.now()
        # A removal has no effect on objects before the grace time has passed.
        if self._asked is None or now - self._asked > self._target.grace / 4:
            self._target.forget_catalog()
            self._asked = now
            points = [each.backup for each in removed_points.of_vm(self._target, None)]
            self._ids = {each.backup_id for each in points}
            self._ids |= {stream.stream_id for each in points for stream in each.streams}
        used = {part.stream_id for stream in backup.streams for part in stream.parts}
        return backup.parent_id in self._ids or not self._ids.isdisjoint(used)
