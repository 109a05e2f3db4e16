# SPDX-License-Identifier: GPL-2.0-or-later
"""Few long requests instead of many short ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """One request of `length` bytes at `start`, and the (offset, length) `pieces` that are wanted of it."""

    start: int
    length: int
    pieces: tuple[tuple[int, int], ...]


def spans(ranges: Sequence[tuple[int, int]], *, gap: int, limit: int) -> Iterator[Span]:
    """Cover sorted, disjoint (offset, length) `ranges` with requests of at most `limit` bytes.

    Ranges at most `gap` bytes apart share a request; a range longer than `limit` is cut. The pieces of all
    spans, one after the other, are the ranges.
    """
    pieces: list[tuple[int, int]] = []
    start = end = 0
    for offset, length in _cut(ranges, limit):
        if pieces and (offset - end > gap or offset + length - start > limit):
            yield Span(start, end - start, tuple(pieces))
            pieces = []
        if not pieces:
            start = offset
        pieces.append((offset, length))
        end = offset + length
    if pieces:
        yield Span(start, end - start, tuple(pieces))


class Scatter:
    """A file-like object that takes a span's bytes in order and puts its pieces into `target`.

    `target` is exactly as long as all pieces together.
    """

    def __init__(self, span: Span, target: memoryview) -> None:
        self._pieces = iter(span.pieces)
        self._target = target
        self._position = span.start
        self._offset, self._missing = next(self._pieces)

    def write(self, data: memoryview) -> int:
        """Take the next bytes, which are the caller's again afterwards."""
        end = self._position + len(data)
        while self._missing and self._offset < end:
            begin = self._offset - self._position
            count = min(self._missing, end - self._offset)
            self._target[:count] = data[begin : begin + count]
            self._target = self._target[count:]
            self._offset += count
            self._missing -= count
            if self._missing == 0:
                self._offset, self._missing = next(self._pieces, (0, 0))
        self._position = end
        return len(data)


def _cut(ranges: Sequence[tuple[int, int]], limit: int) -> Iterator[tuple[int, int]]:
    for offset, length in ranges:
        for start in range(offset, offset + length, limit):
            yield start, min(limit, offset + length - start)
