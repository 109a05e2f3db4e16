# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of a table, kept compressed: a table can have millions of rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

#: Rows that are compressed together.
_CHUNK = 256
#: Printable cells hold neither.
_BETWEEN_CELLS, _BETWEEN_ROWS = "\x1f", "\x1e"


class Rows(Sequence[list[str]]):
    """Rows of printable cells. The last ones are not compressed, so a small table costs nothing."""

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        self._chunks: list[bytes] = []
        self._last: list[str] = []
        self._read: tuple[int, list[str]] = (-1, [])
        for row in rows:
            self._last.append(_BETWEEN_CELLS.join(row))
            if len(self._last) == _CHUNK:
                self._chunks.append(
                    zlib.compress(_BETWEEN_ROWS.join(self._last).encode("utf-8", "surrogatepass"), 1)
                )
                self._last = []

    def __len__(self) -> int:
        return len(self._chunks) * _CHUNK + len(self._last)

    def __iter__(self) -> Iterator[list[str]]:
        return (self[number] for number in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | list[list[str]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, position = divmod(index, _CHUNK)
        return self._chunk(number)[position].split(_BETWEEN_CELLS)

    def _chunk(self, number: int) -> list[str]:
        if number == len(self._chunks):
            return self._last
        if self._read[0] != number:
            text = zlib.decompress(self._chunks[number]).decode("utf-8", "surrogatepass")
            self._read = (number, text.split(_BETWEEN_ROWS))
        return self._read[1]
