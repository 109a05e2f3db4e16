# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw a disk at a point as cells: the backups that each cell comes from, and how much differs from another point.

The page of `pitr diff --html` shows this picture. Its size is limited, however many extents the disk has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pitr.extents import Int64Array
from pitr.jobs.diff.cells import Cells
from pitr.jobs.diff.two_points import DiskDiff
from pitr.model import Backup, Stream
from pitr.repository.chain import ResolvedChain
from pitr.repository.resolver import NEVER_WRITTEN, PointMap

#: The most cells of all disks together, so that the page stays small; the fewest and the most cells of one disk.
_MOST_CELLS = 1 << 14
_FEWEST_OF_A_DISK, _MOST_OF_A_DISK = 1 << 6, 1 << 12
#: A cell names only the backups that most of its data comes from.
_MOST_PARTS = 3
#: In a longer chain, the picture leaves out streams that the point reads nothing from.
_MOST_LINKS = 200


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A stream of the chain, and the bytes of the disk that come from it."""

    layer: int
    backup: Backup
    stream: Stream
    data_bytes: int
    zero_bytes: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A disk as cells. Each array has one number of bytes for each cell.

    `data` and `never_written` bytes (the rest reads as zero); `different_data` and `different_zero`: bytes that differ
    and are now data or zero. `parts`: for each cell (layer, data bytes) of the backups that most data comes from, most
    first. `links`: the chain, newest first, without the `unread` streams that the point reads nothing from.
    """

    disk: DiskDiff
    cells: Cells
    data: Int64Array
    never_written: Int64Array
    different_data: Int64Array
    different_zero: Int64Array
    parts: list[list[tuple[int, int]]]
    links: list[ChainLink]
    unread: int
    never_written_bytes: int


def cells_for(disks: int) -> int:
    """Return how many cells each of this many disks may have: a power of four, for a square."""
    cells = _MOST_OF_A_DISK
    while cells * disks > _MOST_CELLS and cells > _FEWEST_OF_A_DISK:
        cells //= 4
    return cells


def draw(disk: DiskDiff, resolved: ResolvedChain, most_cells: int) -> Picture:
    """Draw a disk of a point with its differences."""
    point_map = resolved.map
    cells = Cells.of(point_map.size, most_cells)
    changes = disk.changes
    by_layer = _Layers(point_map)
    data = np.zeros(cells.count, np.int64)
    numbers: list[Int64Array] = []
    layers: list[Int64Array] = []
    amounts: list[Int64Array] = []
    links: list[ChainLink] = []
    for layer, (backup, stream) in enumerate(resolved.chain):
        rows = by_layer.rows(layer)
        zero = point_map.zero[rows]
        covered = cells.covered(point_map.start[rows[~zero]], point_map.length[rows[~zero]])
        data += covered
        used = np.flatnonzero(covered)
        numbers.append(used)
        layers.append(np.full(len(used), layer, np.int64))
        amounts.append(covered[used])
        zero_bytes = int(point_map.length[rows[zero]].sum())
        links.append(ChainLink(layer, backup, stream, int(covered.sum()), zero_bytes))
    nothing = by_layer.rows(NEVER_WRITTEN)
    never = cells.covered(point_map.start[nothing], point_map.length[nothing])
    read = [link for link in links if link.data_bytes or link.zero_bytes]
    shown = links if len(links) <= _MOST_LINKS else read
    return Picture(
        disk=disk,
        cells=cells,
        data=data,
        never_written=never,
        different_data=cells.covered(changes.start[~changes.zero], changes.length[~changes.zero]),
        different_zero=cells.covered(changes.start[changes.zero], changes.length[changes.zero]),
        parts=_largest(cells.count, np.concatenate(numbers), np.concatenate(layers), np.concatenate(amounts)),
        links=shown,
        unread=len(links) - len(shown),
        never_written_bytes=int(never.sum()),
    )


class _Layers:
    """The rows of a map by layer, in the order of the disk; sorted only once."""

    def __init__(self, point_map: PointMap) -> None:
        self._order = np.argsort(point_map.layer, kind="stable")
        self._sorted = point_map.layer[self._order]

    def rows(self, layer: int) -> Int64Array:
        first, last = np.searchsorted(self._sorted, [layer, layer + 1], side="left")
        return self._order[first:last]


def _largest(
    count: int, number: Int64Array, layer: Int64Array, amount: Int64Array
) -> list[list[tuple[int, int]]]:
    """Return for each cell the _MOST_PARTS largest amounts with their layers."""
    order = np.lexsort((layer, -amount, number))
    number, layer, amount = number[order], layer[order], amount[order]
    rank = np.arange(len(number)) - np.searchsorted(number, number, side="left")
    chosen = rank < _MOST_PARTS
    parts: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for cell, of_layer, bytes_read in zip(
        number[chosen].tolist(), layer[chosen].tolist(), amount[chosen].tolist(), strict=True
    ):
        parts[cell].append((of_layer, bytes_read))
    return parts
