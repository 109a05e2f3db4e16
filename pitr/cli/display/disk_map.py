# SPDX-License-Identifier: GPL-2.0-or-later
"""The differences between two points, as tables and maps on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from pitr import times
from pitr.cli.display import tables
from pitr.extents import ExtentMap
from pitr.jobs.diff.cells import Cells
from pitr.jobs.diff.two_points import DiskDiff
from pitr.model import Backup
from pitr.text import printable
from pitr.units import human_size

#: Shades for a cell that is different in nothing, up to a quarter, up to a half, more, or all.
_SHADES = "·░▒▓█"
_ASCII_SHADES = ".:+*#"
_DATA_STYLE, _ZERO_STYLE, _SAME_STYLE = "yellow", "cyan", "bright_black"
_MOST_ROWS = 8
_SMALLEST_WIDTH, _LARGEST_WIDTH = 16, 128


def shown(
    before: Backup, after: Backup, found: Sequence[DiskDiff], *, extents: bool
) -> Iterator[RenderableType]:
    """Yield the parts that `pitr diff` prints."""
    yield from headings(before, after)
    yield _figures(found)
    with_map = [disk for disk in found if len(disk.changes)]
    for disk in with_map:
        if disk.size_after is not None:
            yield DiskMap(disk.name, disk.size_after, disk.changes, max(2, _MOST_ROWS // len(with_map)))
    if with_map:
        yield Legend()
    for disk in found:
        if disk.note:
            yield Text(f"Note on {printable(disk.name)}: {printable(disk.note)}")
    if extents:
        yield _ranges(found)


def headings(before: Backup, after: Backup) -> Iterator[RenderableType]:
    """Yield the lines that name the VM and the two points."""
    yield Text(f"VM {printable(after.vm.name)}")
    yield Text(f"From {_named(before)}")
    if before == after:
        yield Text("To   the same point: there is no other point between the two times")
    else:
        yield Text(f"To   {_named(after)}")


def _named(backup: Backup) -> str:
    return f"{times.for_people(backup.point)} ({backup.kind.value} {backup.backup_id})"


def _figures(found: Sequence[DiskDiff]) -> RenderableType:
    return tables.table(
        ("Disk", "State", "Size", "Different", "Data now", "New data", "Zero now", "Extents"),
        (
            (
                disk.name,
                _state(disk),
                human_size(disk.size_after if disk.size_after is not None else disk.size_before or 0),
                human_size(disk.changed_bytes),
                human_size(disk.data_bytes),
                human_size(disk.new_bytes),
                human_size(disk.zero_bytes),
                str(len(disk.changes)),
            )
            for disk in found
        ),
        right=("Size", "Different", "Data now", "New data", "Zero now", "Extents"),
        drop=("Extents", "New data", "Size", "Zero now", "Data now"),
        least={"Disk": ("cut", 12), "State": ("fold", 15)},
    )


def _state(disk: DiskDiff) -> str:
    if disk.size_before is None:
        return "only in the later point"
    if disk.size_after is None:
        return "only in the earlier point"
    grown = disk.size_after - disk.size_before
    if grown:
        return f"{'grown' if grown > 0 else 'shrunk'} by {human_size(abs(grown))}"
    return disk.state


def _ranges(found: Sequence[DiskDiff]) -> RenderableType:
    return tables.table(
        ("Disk", "Start", "Length", "", "Now"),
        (
            (disk.name, str(start), str(length), human_size(length), "zero" if zero else "data")
            for disk in found
            for start, length, zero in disk.changes
        ),
        right=("Start", "Length", ""),
        drop=("",),
        least={"Disk": ("cut", 12)},
    )


class DiskMap:
    """A disk as rows of cells, from its start to its end. The shade of a cell shows how much is different."""

    def __init__(self, name: str, size: int, changes: ExtentMap, rows: int) -> None:
        self._name = name
        self._size = size
        self._changes = changes
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        label = max(len(human_size(self._size)), 8) + 1
        # With a multiple of 32 cells, each row covers a round size.
        width = min(max(_SMALLEST_WIDTH, (options.max_width - label - 2) // 32 * 32), _LARGEST_WIDTH)
        cells = Cells.of(self._size, width * self._rows, round_length=True)
        data, zero = (
            cells.covered(self._changes.start[chosen], self._changes.length[chosen]).tolist()
            for chosen in (~self._changes.zero, self._changes.zero)
        )
        lengths = cells.lengths().tolist()
        shades = _ASCII_SHADES if _plain(console) else _SHADES
        yield Text(f"{printable(self._name)}, {human_size(cells.length)} a cell", style="bold")
        for first in range(0, cells.count, width):
            line = Text(f"{human_size(first * cells.length):>{label}} ", style=_SAME_STYLE)
            for cell in range(first, min(first + width, cells.count)):
                different = data[cell] + zero[cell]
                style = _DATA_STYLE if data[cell] >= zero[cell] else _ZERO_STYLE
                line.append(
                    shades[_shade(different, lengths[cell])], style=style if different else _SAME_STYLE
                )
            yield line
        yield Text("")


class Legend:
    """The meaning of the shades and colours in the maps."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shades = _ASCII_SHADES if _plain(console) else _SHADES
        yield Text.assemble(
            (shades[0], _SAME_STYLE),
            f" the same   {shades[1]} up to a quarter different   {shades[2]} up to a half   {shades[3]} more   "
            f"{shades[4]} all",
        )
        if console.color_system is not None:
            yield Text.assemble(("data now", _DATA_STYLE), "   ", ("zero now", _ZERO_STYLE))


def _plain(console: Console) -> bool:
    """Tell whether the console can print only ASCII."""
    return not console.encoding.lower().startswith("utf")


def _shade(different: int, length: int) -> int:
    if different == 0:
        return 0
    if different == length:
        return 4
    return 1 if different * 4 <= length else 2 if different * 2 <= length else 3
