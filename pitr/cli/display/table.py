# SPDX-License-Identifier: GPL-2.0-or-later
"""A table that fits the terminal: each row stays on one line if possible."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pitr.text import printable

#: Spaces between columns if the terminal is wide enough, and if not.
_WIDE_GAP, _NARROW_GAP = 3, 2
#: Width of the frame: a space at each end of a line.
_ENDS = 2

Shortening = Literal["cut", "fold", "begin"]
#: Columns get the remaining width in this order.
_FIRST: tuple[Shortening, ...] = ("fold", "cut", "begin")


class FittingTable:
    """Rows of cells under the names `columns`; the columns in `right` are right-aligned.

    If the table is too wide, the columns in `least` shrink to their minimum width: "cut" ends the cell with an
    ellipsis, "fold" wraps it, and "begin" keeps only its start, which is enough for an id. If that is not enough,
    the table leaves out the columns in `drop`, in this order, and a line below names them. If the table is still too
    wide, its cells wrap: no other column loses text. The names of columns in `drop` must be unique.

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
        upright: bool = False,
    ) -> None:
        self._columns = [printable(name) for name in columns]
        self._rows = [[printable(cell) for cell in row] for row in rows]
        self._right = right
        self._drop = drop
        self._least = least or {}
        self._upright = upright
        self._natural = [
            max([cell_len(name), *(cell_len(row[number]) for row in self._rows)])
            for number, name in enumerate(columns)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        kept = list(range(len(self._columns)))
        if _taken([self._natural[number] for number in kept], _WIDE_GAP) <= width:
            yield self._table(kept, {}, _WIDE_GAP)
            return
        if self._upright:
            yield from self._lists()
            return
        # Leave out columns that are empty in every row.
        kept = [number for number in kept if not self._rows or any(row[number] for row in self._rows)]
        dropped: list[str] = []
        names = [self._columns[number] for number in kept]
        for name in (name for name in self._drop if name in names):
            if _taken([self._smallest(number) for number in kept], _NARROW_GAP) <= width:
                break
            kept.remove(self._columns.index(name))
            dropped.append(name)
        yield self._table(kept, self._widths(kept, width), _NARROW_GAP)
        if dropped:
            shown = ", ".join(name for name in self._columns if name in dropped)
            yield Text(f" No room for {shown}: see --output json", style="bright_black")

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

    def _widths(self, kept: Sequence[int], width: int) -> dict[int, int]:
        """Return the width of each column. Remaining width goes first to columns that wrap, then to others."""
        widths = {number: self._smallest(number) for number in kept}
        room = width - _taken(list(widths.values()), _NARROW_GAP)
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

    def _table(self, kept: Sequence[int], widths: Mapping[int, int], gap: int) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            # The frame adds one more space.
            padding=(0, 1) if gap == _WIDE_GAP else (0, 1, 0, 0),
            header_style="bold",
        )
        for number in kept:
            cut = number in widths and self._how(number) == "cut"
            table.add_column(
                self._columns[number],
                justify="right" if self._columns[number] in self._right else "left",
                overflow="ellipsis" if cut else "fold",
                no_wrap=cut,
                width=widths.get(number),
            )
        begin = {number for number in widths if self._how(number) == "begin"}
        for row in self._rows:
            table.add_row(
                *(Text(row[number][: widths[number]] if number in begin else row[number]) for number in kept)
            )
        return table


def _taken(widths: Sequence[int], gap: int) -> int:
    """Return the width of a table with columns of these widths."""
    return sum(widths) + gap * max(0, len(widths) - 1) + _ENDS
