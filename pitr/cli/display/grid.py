# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of cells in columns of known widths, drawn quickly: rich's own tables need half a millisecond for each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_BOLD = Style(bold=True)
#: Rows that are drawn at a time.
_PART = 128


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its width, what happens to longer cells, and whether cells are right-aligned.

    "cut" ends a longer cell with an ellipsis, "begin" keeps its start, and "fold" wraps it.
    """

    name: str
    width: int
    longer: Literal["cut", "fold", "begin"]
    right: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells, with `gap` spaces between columns. `edge`: a blank line and a space around all.

    `cells` are the positions of the columns' cells in a row. A part of a grid has no `top` or no `bottom` edge.
    """

    columns: Sequence[Column]
    cells: Sequence[int]
    rows: Sequence[Sequence[str]]
    gap: int
    edge: bool
    header: bool
    top: bool = True
    bottom: bool = True

    def parts(self) -> Iterator[Grid]:
        """Yield the grid in parts of limited size, to print one after the other."""
        for start in range(0, max(1, len(self.rows)), _PART):
            first, last = start == 0, start + _PART >= len(self.rows)
            yield replace(
                self,
                rows=self.rows[start : start + _PART],
                header=self.header and first,
                top=first,
                bottom=last,
            )

    @property
    def _width(self) -> int:
        inner = sum(column.width for column in self.columns) + self.gap * max(0, len(self.columns) - 1)
        return inner + (2 if self.edge else 0)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self._width, self._width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line, style in self._lines(console, options):
            yield Segment(line, style)
            yield Segment.line()

    def _lines(self, console: Console, options: ConsoleOptions) -> Iterator[tuple[str, Style | None]]:
        margin = " " if self.edge else ""
        if self.edge and self.top:
            yield " " * self._width, None
        if self.header:
            names = [column.name for column in self.columns]
            for line in self._drawn(console, names):
                yield f"{margin}{line}{margin}", _BOLD
            rule = ("-" if options.ascii_only else "─") * (self._width - 2 * len(margin))
            yield f"{margin}{rule}{margin}", None
        for row in self.rows:
            for line in self._drawn(console, [row[number] for number in self.cells]):
                yield f"{margin}{line}{margin}", None
        if self.edge and self.bottom:
            yield " " * self._width, None

    def _drawn(self, console: Console, row: Sequence[str]) -> list[str]:
        """Return the lines of a row: one, or several if a cell wraps."""
        between = " " * self.gap
        single: list[str] = []
        for column, cell in zip(self.columns, row, strict=True):
            # Most texts have one cell of the terminal for each character.
            room = column.width - (len(cell) if cell.isascii() else cell_len(cell))
            if room < 0:
                break
            single.append(" " * room + cell if column.right else cell + " " * room)
        else:
            return [between.join(single)]
        cells = [_parts(console, column, cell) for column, cell in zip(self.columns, row, strict=True)]
        return [
            between.join(
                _aligned(column, parts[number] if number < len(parts) else "")
                for column, parts in zip(self.columns, cells, strict=True)
            )
            for number in range(max(map(len, cells)))
        ]


def _parts(console: Console, column: Column, cell: str) -> list[str]:
    """Return the cell in parts that fit into its column."""
    if cell_len(cell) <= column.width:
        return [cell]
    if column.longer == "begin":
        return [cell[: column.width]]
    if column.longer == "cut":
        return [set_cell_size(cell, column.width - 1) + "…"]
    return [line.plain.rstrip() for line in Text(cell).wrap(console, column.width, overflow="fold")]


def _aligned(column: Column, text: str) -> str:
    room = " " * (column.width - cell_len(text))
    return room + text if column.right else text + room
