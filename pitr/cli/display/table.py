# SPDX-License-Identifier: GPL-2.0-or-later
"""A table that fits the terminal: each row stays one line as long as that is possible."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pitr.text import printable

#: Between columns, where there is room and where there is not.
_WIDE_GAP, _NARROW_GAP = 3, 2
#: What the frame of the table takes: a space at each end of a line.
_ENDS = 2

Shortening = Literal["cut", "fold", "begin"]
#: Which columns get room that is left.
_FIRST: tuple[Shortening, ...] = ("fold", "cut", "begin")


class FittingTable:
    """Rows of cells under the names of `columns`; those in `right` are numbers.

    Where they do not fit beside each other, columns that `least` names become as narrow as that: with "cut" the cell
    gets an ellipsis, with "fold" it goes on in the next line, and with "begin" only its beginning stays, which is
    enough of an id. Then the columns of `drop` are left out, the first ones first, and a line below says so. What
    still does not fit is folded: no other column ever loses anything. The columns to drop have names of their own.

    `upright`: where the table does not fit, each row is a list of names and values instead.
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
            yield self._made(kept, {}, _WIDE_GAP)
            return
        if self._upright:
            yield from self._lists()
            return
        # What says nothing in any row is not missed.
        kept = [number for number in kept if not self._rows or any(row[number] for row in self._rows)]
        dropped: list[str] = []
        names = [self._columns[number] for number in kept]
        for name in (name for name in self._drop if name in names):
            if _taken([self._smallest(number) for number in kept], _NARROW_GAP) <= width:
                break
            kept.remove(self._columns.index(name))
            dropped.append(name)
        yield self._made(kept, self._widths(kept, width), _NARROW_GAP)
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
        """How narrow a column may become: its name is never cut."""
        name = self._columns[number]
        _, least = self._least.get(name, ("fold", self._natural[number]))
        return min(self._natural[number], max(least, cell_len(name)))

    def _widths(self, kept: Sequence[int], width: int) -> dict[int, int]:
        """How wide each column is: room that is left makes lines fewer first, then cells longer, from the left."""
        widths = {number: self._smallest(number) for number in kept}
        room = width - _taken(list(widths.values()), _NARROW_GAP)
        if room < 0:
            return {}
        for number in sorted(kept, key=lambda number: _FIRST.index(self._how(number))):
            more = self._natural[number] - widths[number]
            # A longer beginning of an id says nothing more, unless it is all of it.
            taken = 0 if self._how(number) == "begin" and more > room else min(room, more)
            widths[number] += taken
            room -= taken
        return widths

    def _how(self, number: int) -> Shortening:
        return self._least.get(self._columns[number], ("fold", 0))[0]

    def _made(self, kept: Sequence[int], widths: Mapping[int, int], gap: int) -> Table:
        made = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            # One more space is the frame's.
            padding=(0, 1) if gap == _WIDE_GAP else (0, 1, 0, 0),
            header_style="bold",
        )
        for number in kept:
            cut = number in widths and self._how(number) == "cut"
            made.add_column(
                self._columns[number],
                justify="right" if self._columns[number] in self._right else "left",
                overflow="ellipsis" if cut else "fold",
                no_wrap=cut,
                width=widths.get(number),
            )
        begin = {number for number in widths if self._how(number) == "begin"}
        for row in self._rows:
            made.add_row(
                *(Text(row[number][: widths[number]] if number in begin else row[number]) for number in kept)
            )
        return made


def _taken(widths: Sequence[int], gap: int) -> int:
    """How wide a table of such columns is."""
    return sum(widths) + gap * max(0, len(widths) - 1) + _ENDS
