# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a restore, or of the plan of one, for each disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pitr.endpoints.points.point import Needed
from pitr.endpoints.points.salvage import DamagedRange
from pitr.extents import ExtentMap
from pitr.jobs.restore.target import Target
from pitr.model import Stream


@dataclass(frozen=True, slots=True)
class Restored:
    """One disk that was restored or planned. `target` is the new disk's id or the file; None if not known yet.

    Bytes written, zeroed and skipped are of the disk and add up to its size; `bytes_read` are stored bytes.
    `damaged` lists the ranges that were not restored and read as zero; only a restore that keeps going has them.
    """

    disk_id: str
    name: str
    target: str | None
    size: int
    bytes_written: int
    bytes_zeroed: int
    bytes_skipped: int
    bytes_read: int
    frames_read: int
    streams: int
    duration_s: float
    damaged: tuple[DamagedRange, ...] = ()


class PlannedSource(Protocol):
    """The ranges that a restore would write."""

    @property
    def size(self) -> int: ...

    def extents(self) -> ExtentMap: ...


def planned(
    stream: Stream, target: Target, source: PlannedSource, needed: Needed, damaged: tuple[DamagedRange, ...]
) -> Restored:
    """Return the expected result for this disk. `source` has the ranges to write, `needed` what a whole point costs."""
    extents, skips = source.extents(), target.reads_zero(stream)
    zeroed = 0 if skips else extents.zero_bytes
    return Restored(
        disk_id=stream.disk_id,
        name=stream.name,
        target=target.expected_name(stream),
        size=source.size,
        bytes_written=extents.data_bytes,
        bytes_zeroed=zeroed,
        bytes_skipped=source.size - extents.data_bytes - zeroed,
        bytes_read=needed.stored_bytes,
        frames_read=needed.frames,
        streams=needed.streams,
        duration_s=0.0,
        damaged=damaged,
    )
