# SPDX-License-Identifier: GPL-2.0-or-later
"""What is different on a disk between two points, to the block: read where the extent indexes alone cannot tell.

Frames that were cut differently have other digests though they hold the same; their bytes tell. Only ranges that are
different by their indexes are read, a window of both points at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pitr.endpoint.difference import Difference
from pitr.endpoint.point import PointReader, PointSource, open_point
from pitr.extents import BoolArray, Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository

#: What is compared as a whole, on a grid of the disk: no guest writes less.
BLOCK = 4096
#: As large as the frames that pitr writes: each is unpacked about once.
_WINDOW = 1 << 20

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A range that is different by the indexes, within one window of the disk."""

    start: int
    length: int
    zero: bool
    was_zero: bool


def read_difference(
    repository: Repository,
    found: Difference,
    before: tuple[Backup, Stream] | None,
    after: tuple[Backup, Stream],
    read: Callable[[int], None] = lambda count: None,
) -> Difference:
    """The ranges of `found` whose bytes are others; `read` is told how many were looked at. `before` is None where
    there was no such disk.

    Zero on both sides (growth) is left as it is. Raises StoredDamage, and UsageError where a blob lies elsewhere.
    """
    kept: list[_Piece] = []
    with ExitStack() as stack:
        now = _Side(stack, open_point(repository, *after))
        old = _Side(stack, open_point(repository, *before)) if before is not None else None
        for _, group in groupby(_pieces(found), key=lambda piece: piece.start // _WINDOW):
            pieces = list(group)
            new_bytes = now.read(pieces, [piece.zero for piece in pieces])
            was_zero = [piece.was_zero for piece in pieces]
            old_bytes = old.read(pieces, was_zero) if old is not None else None
            at = 0
            for piece in pieces:
                window = slice(at, at + piece.length)
                at += piece.length
                if piece.zero and piece.was_zero:
                    kept.append(piece)
                    continue
                before_bytes = (
                    old_bytes[window] if old_bytes is not None else np.zeros(piece.length, np.uint8)
                )
                kept += [
                    _Piece(piece.start + first, last - first, piece.zero, piece.was_zero)
                    for first, last in _different(piece.start, new_bytes[window], before_bytes)
                ]
            read(at)
    return replace(
        found,
        start=np.array([piece.start for piece in kept], np.int64),
        length=np.array([piece.length for piece in kept], np.int64),
        zero=np.array([piece.zero for piece in kept], np.bool_),
        was_zero=np.array([piece.was_zero for piece in kept], np.bool_),
    )


class _Side:
    """One of the points, and room for a window of it."""

    def __init__(self, stack: ExitStack, source: PointSource) -> None:
        stack.enter_context(source)
        self._reader: PointReader = stack.enter_context(source.open_reader())
        self._buffer = np.zeros(_WINDOW, np.uint8)

    def read(self, pieces: Sequence[_Piece], zero: Sequence[bool]) -> Bytes:
        """The pieces one after the other, in one go: what they share of frames is unpacked once."""
        data = [piece for piece, is_zero in zip(pieces, zero, strict=True) if not is_zero]
        count = sum(piece.length for piece in data)
        buffer = bytearray(count)
        if data:
            self._reader.read_ranges([(piece.start, piece.length) for piece in data], memoryview(buffer))
        packed = np.frombuffer(buffer, np.uint8)
        whole = self._buffer[: sum(piece.length for piece in pieces)]
        at = taken = 0
        for piece, is_zero in zip(pieces, zero, strict=True):
            if is_zero:
                whole[at : at + piece.length] = 0
            else:
                whole[at : at + piece.length] = packed[taken : taken + piece.length]
                taken += piece.length
            at += piece.length
        return whole


def _pieces(found: Difference) -> Iterator[_Piece]:
    """The ranges, cut at multiples of the window."""
    columns: tuple[Int64Array | BoolArray, ...] = (found.start, found.length, found.zero, found.was_zero)
    for start, length, zero, was_zero in zip(*(column.tolist() for column in columns), strict=True):
        at = start
        while at < start + length:
            end = min(start + length, (at // _WINDOW + 1) * _WINDOW)
            yield _Piece(at, end - at, zero, was_zero)
            at = end


def _different(start: int, new: Bytes, old: Bytes) -> Iterator[tuple[int, int]]:
    """Where two windows of the disk at `start` are different: (first, end) of runs of blocks, counted from it."""
    differing = np.not_equal(new, old)
    # Blocks lie on a grid of the disk; the first and the last one may be cut.
    cuts = np.arange(-(start % BLOCK), len(differing), BLOCK)
    cuts[0] = 0
    blocks = np.logical_or.reduceat(differing, cuts)
    ends = np.append(cuts[1:], len(differing))
    changes = np.flatnonzero(np.diff(np.concatenate(([False], blocks, [False])).astype(np.int8)))
    for first, last in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        yield int(cuts[first]), int(ends[last - 1])
