# SPDX-License-Identifier: GPL-2.0-or-later
"""What is different on a disk between two points, to the block: read where the extent indexes alone cannot tell.

Frames that were cut differently have other digests though they hold the same; their bytes tell. Only ranges that are
different by their indexes are read, a window of both points at a time.
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

#: What is compared as a whole, on a grid of the disk: no guest writes less.
BLOCK = 4096
#: As large as the frames that pitr writes: each is unpacked about once.
_WINDOW = 1 << 20

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A range that is different by the indexes, within one window of the disk."""

    start: int
    length: int
    zero: bool
    was_zero: bool


def read_difference(
    repository: Repository,
    found: Difference,
    before: ResolvedChain | None,
    after: ResolvedChain,
    read: Callable[[int], None] = lambda count: None,
    *,
    workers: int = 1,
) -> Difference:
    """The ranges of `found` whose bytes are others; `read` is told how many were looked at. `before` is None where
    there was no such disk. `workers` threads read, each a window of both points at a time.

    Zero on both sides (growth) is left as it is. Raises StoredDamage, and UsageError where a blob lies elsewhere.
    """
    kept: list[_Candidate] = []
    with ExitStack() as stack:
        now = stack.enter_context(open_resolved(repository, after))
        old = stack.enter_context(open_resolved(repository, before)) if before is not None else None
        comparison = _WindowComparison(stack, now, old)
        # Left with an error, it waits for what is under way, before the points are closed.
        pool = stack.enter_context(ThreadPoolExecutor(max(1, workers), thread_name_prefix="diff"))
        waiting: deque[Future[tuple[list[_Candidate], int]]] = deque()

        def take() -> None:
            pieces, count = waiting.popleft().result()
            kept.extend(pieces)
            read(count)

        for _, group in groupby(_pieces(found), key=lambda piece: piece.start // _WINDOW):
            waiting.append(pool.submit(comparison.window, list(group)))
            if len(waiting) > 2 * workers:
                take()
        while waiting:
            take()
    return replace(
        found,
        start=np.array([piece.start for piece in kept], np.int64),
        length=np.array([piece.length for piece in kept], np.int64),
        zero=np.array([piece.zero for piece in kept], np.bool_),
        was_zero=np.array([piece.was_zero for piece in kept], np.bool_),
    )


class _WindowComparison:
    """Compares windows of two points, in any number of threads; `stack` closes their readers."""

    def __init__(self, stack: ExitStack, now: PointSource, old: PointSource | None) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._now = now
        self._old = old
        self._local = threading.local()

    def window(self, pieces: Sequence[_Candidate]) -> tuple[list[_Candidate], int]:
        """What of the pieces is different, and how many bytes they are."""
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
        """This thread's ways into the points."""
        if not hasattr(self._local, "sides"):
            with self._lock:
                self._local.sides = (
                    _Side(self._stack.enter_context(self._now.open_reader())),
                    None if self._old is None else _Side(self._stack.enter_context(self._old.open_reader())),
                )
        found: tuple[_Side, _Side | None] = self._local.sides
        return found


class _Side:
    """A thread's way into one of the points, and room for a window of it."""

    def __init__(self, reader: PointReader) -> None:
        self._reader = reader
        self._buffer = np.zeros(_WINDOW, np.uint8)

    def read(self, pieces: Sequence[_Candidate], zero: Sequence[bool]) -> Bytes:
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


def _pieces(found: Difference) -> Iterator[_Candidate]:
    """The ranges, cut at multiples of the window."""
    columns: tuple[Int64Array | BoolArray, ...] = (found.start, found.length, found.zero, found.was_zero)
    for start, length, zero, was_zero in zip(*(column.tolist() for column in columns), strict=True):
        at = start
        while at < start + length:
            end = min(start + length, (at // _WINDOW + 1) * _WINDOW)
            yield _Candidate(at, end - at, zero, was_zero)
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
