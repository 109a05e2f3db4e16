# SPDX-License-Identifier: GPL-2.0-or-later
"""The changed blocks of a disk between two points, from their bytes where the extent indexes cannot tell.

Frames that were cut differently have different digests even when their bytes are equal. pitr reads only the ranges
that differ by their indexes, one window of both points at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pitr.endpoints.points.difference import Difference
from pitr.endpoints.points.point import PointReader, PointSource, open_resolved
from pitr.extents import BoolArray, Int64Array
from pitr.repository import Repository
from pitr.repository.chain import ResolvedChain
from pitr.system import rate_limit

#: The size in bytes of a block, on a grid of the disk: guests do not write less.
BLOCK = 4096
#: The size of pitr's frames, so that each is decompressed about once.
_WINDOW = 1 << 20

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A range that differs by the indexes, within one window of the disk."""

    start: int
    length: int
    zero: bool
    was_zero: bool


def read_difference(
    repository: Repository,
    difference: Difference,
    before: ResolvedChain | None,
    after: ResolvedChain,
    read: Callable[[int], None] = lambda count: None,
    *,
    workers: int = 1,
) -> Difference:
    """Return the ranges of `difference` whose bytes differ.

    `before` is None when the disk did not exist. `read` gets the number of bytes compared, again and again. `workers`
    threads read, each a window of both points at a time. A range that is zero on both sides (growth) stays. Raises
    StoredDamage, and UsageError where a blob is stored externally.
    """
    kept: list[_Candidate] = []
    with ExitStack() as stack:
        now = stack.enter_context(open_resolved(repository, after))
        old = stack.enter_context(open_resolved(repository, before)) if before is not None else None
        comparison = _WindowComparison(stack, now, old)
        # On an error, the pool waits for its threads before the points are closed.
        pool = stack.enter_context(ThreadPoolExecutor(max(1, workers), thread_name_prefix="diff"))
        waiting: deque[Future[tuple[list[_Candidate], int]]] = deque()

        def take() -> None:
            pieces, count = waiting.popleft().result()
            kept.extend(pieces)
            read(count)

        for _, group in groupby(_pieces(difference), key=lambda piece: piece.start // _WINDOW):
            pieces = list(group)
            # Here, and not in the pool: a signal ends the wait of this thread at once.
            rate_limit.spend(
                sum(piece.length * ((not piece.zero) + (not piece.was_zero)) for piece in pieces)
            )
            waiting.append(pool.submit(comparison.window, pieces))
            if len(waiting) > 2 * workers:
                take()
        while waiting:
            take()
    return replace(
        difference,
        start=np.array([piece.start for piece in kept], np.int64),
        length=np.array([piece.length for piece in kept], np.int64),
        zero=np.array([piece.zero for piece in kept], np.bool_),
        was_zero=np.array([piece.was_zero for piece in kept], np.bool_),
    )


class _WindowComparison:
    """Compares windows of two points in any number of threads. `stack` closes their readers."""

    def __init__(self, stack: ExitStack, now: PointSource, old: PointSource | None) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._now = now
        self._old = old
        self._local = threading.local()

    def window(self, pieces: Sequence[_Candidate]) -> tuple[list[_Candidate], int]:
        """Return the parts of the pieces that differ, and the number of bytes compared."""
        now, old = self._sides()
        new_bytes = now.read(pieces, [piece.zero for piece in pieces])
        old_bytes = old.read(pieces, [piece.was_zero for piece in pieces]) if old is not None else None
        kept: list[_Candidate] = []
        at = 0
        for piece in pieces:
            window = slice(at, at + piece.length)
            at += piece.length
            if piece.zero and piece.was_zero:
                kept.append(piece)
                continue
            before_bytes = old_bytes[window] if old_bytes is not None else np.zeros(piece.length, np.uint8)
            kept += [
                _Candidate(piece.start + first, last - first, piece.zero, piece.was_zero)
                for first, last in _different(piece.start, new_bytes[window], before_bytes)
            ]
        return kept, at

    def _sides(self) -> tuple[_Side, _Side | None]:
        """Return this thread's readers of the points."""
        if not hasattr(self._local, "sides"):
            with self._lock:
                self._local.sides = (
                    _Side(self._stack.enter_context(self._now.open_reader())),
                    None if self._old is None else _Side(self._stack.enter_context(self._old.open_reader())),
                )
        sides: tuple[_Side, _Side | None] = self._local.sides
        return sides


class _Side:
    """One thread's reader of one point, with a buffer for one window."""

    def __init__(self, reader: PointReader) -> None:
        self._reader = reader
        self._buffer = np.zeros(_WINDOW, np.uint8)

    def read(self, pieces: Sequence[_Candidate], zero: Sequence[bool]) -> Bytes:
        """Read the pieces in one call, so that a frame that they share is decompressed once."""
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


def _pieces(difference: Difference) -> Iterator[_Candidate]:
    """Yield the ranges, cut at multiples of the window."""
    columns: tuple[Int64Array | BoolArray, ...] = (
        difference.start,
        difference.length,
        difference.zero,
        difference.was_zero,
    )
    for start, length, zero, was_zero in zip(*(column.tolist() for column in columns), strict=True):
        at = start
        while at < start + length:
            end = min(start + length, (at // _WINDOW + 1) * _WINDOW)
            yield _Candidate(at, end - at, zero, was_zero)
            at = end


def _different(start: int, new: Bytes, old: Bytes) -> Iterator[tuple[int, int]]:
    """Yield where two windows at `start` differ: (first, end) of runs of blocks, relative to `start`."""
    differing = np.not_equal(new, old)
    # Blocks lie on a grid of the disk; the window may cut the first and the last one.
    cuts = np.arange(-(start % BLOCK), len(differing), BLOCK)
    cuts[0] = 0
    blocks = np.logical_or.reduceat(differing, cuts)
    ends = np.append(cuts[1:], len(differing))
    changes = np.flatnonzero(np.diff(np.concatenate(([False], blocks, [False])).astype(np.int8)))
    for first, last in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        yield int(cuts[first]), int(ends[last - 1])
