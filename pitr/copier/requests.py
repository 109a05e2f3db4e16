# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that combine several ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CombinedRequest:
    """One request of `length` bytes at `start`, and the (offset, length) `pieces` of it that the caller needs."""

    start: int
    length: int
    pieces: tuple[tuple[int, int], ...]

    @property
    def wanted(self) -> int:
        """The bytes of all pieces."""
        return sum(length for _, length in self.pieces)


def combine(ranges: Sequence[tuple[int, int]], *, gap: int, limit: int) -> Iterator[CombinedRequest]:
    """Cover sorted, disjoint (offset, length) `ranges` with requests of at most `limit` bytes.

    Ranges at most `gap` bytes apart share a request; a range longer than `limit` is cut. The pieces of all requests,
    in order, are the ranges.
    """
    pieces: list[tuple[int, int]] = []
    start = end = 0
    for offset, length in _cut(ranges, limit):
        if pieces and (offset - end > gap or offset + length - start > limit):
            yield CombinedRequest(start, end - start, tuple(pieces))
            pieces = []
        if not pieces:
            start = offset
        pieces.append((offset, length))
        end = offset + length
    if pieces:
        yield CombinedRequest(start, end - start, tuple(pieces))


def _cut(ranges: Sequence[tuple[int, int]], limit: int) -> Iterator[tuple[int, int]]:
    for offset, length in ranges:
        for start in range(offset, offset + length, limit):
            yield start, min(limit, offset + length - start)
