# SPDX-License-Identifier: GPL-2.0-or-later
"""A table that fits the terminal: each row stays on one line if possible."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from pitr.cli.display.cells import Rows
from pitr.cli.display.grid import Column, Grid
from pitr.cli.display.output import WIDTH_WITHOUT_TERMINAL
from pitr.text import printable

#: Spaces between columns if the terminal is wide enough, if not, and if a column would not fit otherwise.
_WIDE_GAP, _NARROW_GAP, _TIGHT_GAP = 3, 2, 1
#: Spaces before a text below its row.
_INDENT = 4
#: The width of tables with `below` without a terminal, for example in the mail of a nightly job.
WIDTH_IN_FILES = 132

Shortening = Literal["cut", "fold", "begin"]
#: Columns get the remaining width in this order.
_FIRST: tuple[Shortening, ...] = ("fold", "cut", "begin")


class FittingTable:
    """Rows of cells under the names `columns`; the columns in `right` are right-aligned.

    If the table is too wide, the columns in `least` shrink to their minimum width: "cut" ends the cell with an
    ellipsis, "fold" wraps it, and "begin" keeps only its start, which is enough for an id. If that is not enough,
    the table leaves out the columns in `drop`, in this order, and a line below names them. If the table is still too
    wide, its cells wrap: no other column loses text. The names of columns in `drop` must be unique.

    The columns in `below` are for long texts. If the table is too wide, their texts stand in lines below their row. On
    a terminal this concerns only those that are not in `drop`.
    Without a terminal, a table with such columns is at most 132 columns wide and loses nothing.

    `upright`: if the table is too wide, print each row as a list of names and values instead.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        right: Collection[str] = (),
        *,
        drop: Sequence[str] = (),
        least: Mapping[str, tuple[Shortening, int]] | None = None,
        below: Sequence[str] = (),
        upright: bool = False,
    ) -> None:
        self._columns = [printable(name) for name in columns]
        self._natural = [cell_len(name) for name in self._columns]
        self._rows = Rows(self._measured(rows))
        self._right = right
        self._drop = drop
        self._least = least or {}
        self._below = below
        self._upright = upright

    def _measured(self, rows: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        """Yield the rows with printable cells, and note the widths of the columns."""
        for row in rows:
            cells = [printable(cell) for cell in row]
            for number, cell in enumerate(cells):
                width = len(cell) if cell.isascii() else cell_len(cell)
                self._natural[number] = max(self._natural[number], width)
            yield cells

    def parts(self, console: Console) -> Iterator[RenderableType]:
        """Yield the table in parts to print one after the other: all at once would need much memory."""
        for part in self.__rich_console__(console, console.options):
            if isinstance(part, Grid):
                yield from part.parts()
            elif not isinstance(part, Segment):
                yield part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = WIDTH_IN_FILES if self._is_in_file(options) else options.max_width
        kept = list(range(len(self._columns)))
        if _taken([self._natural[number] for number in kept], _WIDE_GAP) <= width:
            yield self._table(kept, {}, _WIDE_GAP)
            return
        if self._upright:
            yield from self._lists()
            return
        # Leave out columns that are empty in every row.
        kept = [number for number in kept if not self._rows or any(row[number] for row in self._rows)]
        moved: list[str] = []
        dropped: list[str] = []
        if self._is_in_file(options):
            for name in self._names(kept, self._below):
                if _taken([self._natural[number] for number in kept], _NARROW_GAP) > width:
                    kept.remove(self._columns.index(name))
                    moved.append(name)
        else:
            for name in self._names(kept, [name for name in self._below if name not in self._drop]):
                if self._gap(kept, width) is None:
                    kept.remove(self._columns.index(name))
                    moved.append(name)
            for name in self._names(kept, self._drop):
                if self._gap(kept, width) is not None:
                    break
                kept.remove(self._columns.index(name))
                dropped.append(name)
        yield from self._fitted(console, kept, moved, width, cut=not self._is_in_file(options))
        if dropped:
            shown = ", ".join(name for name in self._columns if name in dropped)
            yield Text(f" No room for {shown}: see --output json", style="bright_black")

    def _is_in_file(self, options: ConsoleOptions) -> bool:
        return bool(self._below) and options.max_width >= WIDTH_WITHOUT_TERMINAL

    def _names(self, kept: Sequence[int], wanted: Sequence[str]) -> list[str]:
        """Return the wanted columns that are kept."""
        return [name for name in wanted if name in [self._columns[number] for number in kept]]

    def _gap(self, kept: Sequence[int], width: int) -> int | None:
        """Return the gap with which the columns fit at their minimum width; None if they do not fit."""
        smallest = [self._smallest(number) for number in kept]
        return next((gap for gap in (_NARROW_GAP, _TIGHT_GAP) if _taken(smallest, gap) <= width), None)

    def _fitted(
        self, console: Console, kept: Sequence[int], moved: Sequence[str], width: int, *, cut: bool
    ) -> Iterator[RenderableType]:
        """Return the table of the kept columns within `width`, and the texts of the moved ones below their rows."""
        gap = self._gap(kept, width)
        widths = self._widths(kept, width, gap or _NARROW_GAP)
        # Nothing is cut where not even the least widths fit: all that is too long wraps.
        wrap = not widths and cut and not moved
        if not widths:
            gap, widths = _TIGHT_GAP, self._squeezed(kept, width)
        gap = gap or _NARROW_GAP
        if not moved:
            yield self._table(kept, widths, gap, cut=cut, wrap=wrap)
            return
        yield Text("")
        for number, row in enumerate(self._rows):
            part = self._table(kept, widths, gap, cut=cut, only=number)
            yield Padding(part, (0, 0, 0, 0 if gap == _TIGHT_GAP else 1), expand=False)
            yield from self._lines_below(console, row, moved, width)
        yield Text("")

    def _lines_below(
        self, console: Console, row: Sequence[str], moved: Sequence[str], width: int
    ) -> Iterator[Text]:
        cells = dict(zip(self._columns, row, strict=True))
        for name in (name for name in moved if cells[name]):
            for number, line in enumerate(Text(f"{name}: {cells[name]}").wrap(console, width - _INDENT - 2)):
                line.rstrip()
                yield Text.assemble(" " * (_INDENT if number == 0 else _INDENT + 2), line)

    def _lists(self) -> Iterator[Text]:
        widest = max(cell_len(name) for name in self._columns)
        for row in self._rows:
            for name, cell in zip(self._columns, row, strict=True):
                yield Text.assemble((" " * (widest - cell_len(name)) + name, "bold"), "  ", cell)
            yield Text("")

    def _smallest(self, number: int) -> int:
        """Return the minimum width of a column; its name is never shortened."""
        name = self._columns[number]
        _, least = self._least.get(name, ("fold", self._natural[number]))
        return min(self._natural[number], max(least, cell_len(name)))

    def _squeezed(self, kept: Sequence[int], width: int) -> dict[int, int]:
        """Return widths that fit although the columns do not at their minimum width: the widest wrap."""
        widths = {number: self._smallest(number) for number in kept}
        while _taken(list(widths.values()), _TIGHT_GAP) > width and max(widths.values()) > 1:
            widest = max(widths, key=lambda number: widths[number])
            widths[widest] -= 1
        return widths

    def _widths(self, kept: Sequence[int], width: int, gap: int) -> dict[int, int]:
        """Return the width of each column. Remaining width goes first to columns that wrap, then to others."""
        widths = {number: self._smallest(number) for number in kept}
        room = width - _taken(list(widths.values()), gap)
        if room < 0:
            return {}
        for number in sorted(kept, key=lambda number: _FIRST.index(self._how(number))):
            more = self._natural[number] - widths[number]
            # A longer start of an id is useful only if it is the whole id.
            taken = 0 if self._how(number) == "begin" and more > room else min(room, more)
            widths[number] += taken
            room -= taken
        return widths

    def _how(self, number: int) -> Shortening:
        return self._least.get(self._columns[number], ("fold", 0))[0]

    def _table(
        self,
        kept: Sequence[int],
        widths: Mapping[int, int],
        gap: int,
        *,
        cut: bool = True,
        wrap: bool = False,
        only: int | None = None,
    ) -> Grid:
        """Return the table; without `cut`, cells that would be cut wrap, and with `wrap`, all that are too long.

        `only`: one row; the first has the header.
        """
        folded = ("cut", "begin") if wrap else () if cut else ("cut",)
        columns = [
            Column(
                self._columns[number],
                widths.get(number, self._natural[number]),
                "fold" if self._how(number) in folded else self._how(number),
                self._columns[number] in self._right,
            )
            for number in kept
        ]
        return Grid(
            columns,
            kept,
            self._rows if only is None else self._rows[only : only + 1],
            gap,
            edge=gap != _TIGHT_GAP and only is None,
            header=not only,
        )


def _taken(widths: Sequence[int], gap: int) -> int:
    """Return the width of a table with columns of these widths. Its frame adds a space at each end of a line."""
    return sum(widths) + gap * max(0, len(widths) - 1) + (0 if gap == _TIGHT_GAP else 2)
