# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk must get written so that it becomes the disk of an earlier point, as a source.

The extent indexes tell most of it; where they cannot, the bytes of both points are compared in blocks of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable

from pitr.copier.wrapped import WrappedSource
from pitr.endpoints.points.difference import compare
from pitr.endpoints.points.exact_difference import read_difference
from pitr.endpoints.points.point import PointSource, open_resolved
from pitr.errors import UsageError
from pitr.extents import ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import ResolvedChain, resolve_chain
from pitr.system.closing import Closes
from pitr.text import printable


class WayBack(WrappedSource[PointSource], Closes):
    """The ranges of a point that differ from another state of the disk. Closing it closes the point.

    Its size is that of the disk now: what the disk has grown by since the point reads as zero.
    """

    def __init__(self, point: PointSource, size: int, ranges: ExtentMap) -> None:
        super().__init__(point)
        self._size = size
        self._ranges = ranges

    @property
    def size(self) -> int:
        return self._size

    @property
    def point(self) -> PointSource:
        """The whole disk at the point."""
        return self._source

    @property
    def differing_bytes(self) -> int:
        """The bytes that differ."""
        return self._ranges.data_bytes + self._ranges.zero_bytes

    def extents(self) -> ExtentMap:
        return self._ranges

    def close(self) -> None:
        self._source.close()


def open_way_back(
    repository: Repository,
    now: tuple[Backup, Stream],
    then: tuple[Backup, Stream],
    *,
    workers: int,
    read: Callable[[int], None] = lambda count: None,
) -> WayBack:
    """Open what leads from the disk at the point `now` to the same disk at the point `then`. The caller closes it.

    `read` gets the number of compared bytes, again and again. Raises StoredDamage; UsageError if data is stored
    externally, or if the disk has become smaller.
    """
    before = resolve_chain(repository, *now)
    after = resolve_chain(repository, *then, with_frames=True)
    if after.map.size > before.map.size:
        raise UsageError(
            f"disk {printable(then[1].name)} has {before.map.size} bytes now, and had {after.map.size} at the point",
            "Use 'pitr restore --replace', which makes a new disk of the size that it had.",
        )
    difference = read_difference(
        repository, compare(repository, before, after), before, after, read, workers=workers
    )
    ranges = [*difference.extents(), *_behind(before, after.map.size)]
    return WayBack(open_resolved(repository, after), before.map.size, ExtentMap.of(ranges).merged())


def _behind(before: ResolvedChain, size: int) -> list[tuple[int, int, bool]]:
    """Return the ranges with data behind `size`, as ranges to zero."""
    behind = before.map.extents().between(size, before.map.size)
    return [(start, length, True) for start, length, zero in behind if not zero]
