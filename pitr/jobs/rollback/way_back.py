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
from pitr.extents import Extent, ExtentMap
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.chain import ResolvedChain, resolve_chain
from pitr.system.closing import Closes


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

    def whole(self) -> WayBack:
        """Return the way from any state of the disk: all that the point holds. Closing this one closes it, too."""
        everything = [*self._source.extents()]
        if self._size > self._source.size:
            everything.append(Extent(self._source.size, self._size - self._source.size, True))
        return WayBack(self._source, self._size, ExtentMap.of(everything).merged())

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
    externally.
    """
    before = resolve_chain(repository, *now)
    after = resolve_chain(repository, *then, with_frames=True)
    difference = read_difference(
        repository, compare(repository, before, after), before, after, read, workers=workers
    )
    ranges = [*difference.extents(), *_behind(before, after.map.size)]
    return WayBack(
        open_resolved(repository, after), max(before.map.size, after.map.size), ExtentMap.of(ranges).merged()
    )


def _behind(before: ResolvedChain, size: int) -> list[tuple[int, int, bool]]:
    """Return the ranges with data behind `size`, as ranges to zero."""
    if size >= before.map.size:
        return []
    behind = before.map.extents().between(size, before.map.size)
    return [(start, length, True) for start, length, zero in behind if not zero]
