# SPDX-License-Identifier: GPL-2.0-or-later
"""What a restore is aimed at, and what came of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pitr.copier.protocols import Sink, Source
from pitr.endpoints.points.point import Needed
from pitr.endpoints.points.salvage import DamagedRange
from pitr.extents import ExtentMap
from pitr.model import Stream


@dataclass(frozen=True, slots=True)
class Restored:
    """One disk that was restored, or would be. `target` is the new disk's id or the file; None when not known yet.

    Bytes written, zeroed and skipped are of the disk and add up to its size; `bytes_read` are stored bytes.
    `damaged`: what could not be restored and reads as zero, when that was asked for.
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


class Target(Protocol):
    """Where a restore goes, for all disks of it. `vm_id`: the VM that gets the disks, once it is there."""

    vm_id: str | None

    def reads_zero(self, stream: Stream) -> bool:
        """Whether what is made for this disk reads as zero."""

    def expected_name(self, stream: Stream) -> str | None:
        """The name of what will be made for this disk, if it is known beforehand."""

    def sink(self, stream: Stream, source: Source) -> AbstractContextManager[tuple[str, Sink]]:
        """Make the target for one disk: its name, and the sink. Left with an error, it is removed again."""

    def finish(self) -> None:
        """Called when all disks are restored."""

    def undo(self) -> None:
        """Remove all that was made, after another disk's failure."""


class Planned(Protocol):
    """A source that knows what it will take to read it."""

    @property
    def size(self) -> int: ...

    def extents(self) -> ExtentMap: ...

    def needed(self) -> Needed: ...


def planned(stream: Stream, target: Target, source: Planned, damaged: tuple[DamagedRange, ...]) -> Restored:
    """What restoring this disk would do."""
    extents, needed, skips = source.extents(), source.needed(), target.reads_zero(stream)
    return Restored(
        disk_id=stream.disk_id,
        name=stream.name,
        target=target.expected_name(stream),
        size=source.size,
        bytes_written=extents.data_bytes,
        bytes_zeroed=0 if skips else extents.zero_bytes,
        bytes_skipped=extents.zero_bytes if skips else 0,
        bytes_read=needed.stored_bytes,
        frames_read=needed.frames,
        streams=needed.streams,
        duration_s=0.0,
        damaged=damaged,
    )
