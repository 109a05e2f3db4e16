# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests of the data that has passed, for blobs that can be read only once.

After a stream has passed, its bytes are gone. Their digests stay, 48 bytes for each piece, so that a copy of the disk
can be compared with them without reading the blobs again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from pitr.copier.protocols import WINDOW, Source
from pitr.copier.streamed import Passing
from pitr.endpoints.points.chain_stream import ChainStream, OpenBlob
from pitr.extents import ExtentMap, Int64Array
from pitr.model import Backup, Stream
from pitr.repository import Repository
from pitr.repository.blob import digest_of
from pitr.system import rate_limit

_DIGEST = 32
#: Zero ranges are read in pieces of at most this size.
_ZEROES = bytes(1 << 20)


class PassedOnce(ChainStream):
    """The disk of a point as a stream that remembers the digest of each piece that has passed."""

    def __init__(self, repository: Repository, backup: Backup, stream: Stream, open_blob: OpenBlob) -> None:
        super().__init__(repository, backup, stream, open_blob)
        #: The start and length of each piece, in the order in which they passed.
        self._places = array("q")
        self._digests = bytearray()

    def passing(self) -> Iterator[Passing]:
        for passing in super().passing():
            if passing.data is not None:
                self._places.extend((passing.extent.start, passing.extent.length))
                self._digests += digest_of(passing.data)
            yield passing

    def first_difference(self, copied: Source) -> int | None:
        """Read all that `copied` holds. Return the first offset that differs from the stream, or None.

        Ranges that did not pass must be zero. Raises the errors of the reader.
        """
        places = np.array(self._places, np.int64).reshape(-1, 2)
        order = np.argsort(places[:, 0])
        starts, lengths = places[order, 0], places[order, 1]
        extents = copied.extents()
        with copied.open_reader() as reader:
            pieces = zip(order.tolist(), starts.tolist(), lengths.tolist(), strict=True)
            for batch in _batches(pieces):
                size = sum(length for *_, length in batch)
                rate_limit.spend(size)
                with memoryview(bytearray(size)) as buffer:
                    reader.read_ranges([(start, length) for _, start, length in batch], buffer)
                    at = 0
                    for number, start, length in batch:
                        expected = self._digests[number * _DIGEST : (number + 1) * _DIGEST]
                        if digest_of(buffer[at : at + length]) != expected:
                            return start
                        at += length
            for start, end in _between(starts, lengths, copied.size):
                for at, count in _pieces_of_data(extents.between(start, end)):
                    rate_limit.spend(count)
                    with memoryview(bytearray(count)) as view:
                        reader.read_ranges([(at, count)], view)
                        if view != _ZEROES[:count]:
                            return at
        return None


def _batches(pieces: Iterable[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Gather (number, start, length) up to the size of one request."""
    batch: list[tuple[int, int, int]] = []
    size = 0
    for piece in pieces:
        if batch and size + piece[2] > WINDOW:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece[2]
    if batch:
        yield batch


def _between(starts: Int64Array, lengths: Int64Array, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of `[0, size)` between sorted, disjoint ranges."""
    ends = np.concatenate(([0], starts + lengths))
    begins = np.concatenate((starts, [size]))
    gaps = np.flatnonzero(ends < begins)
    yield from zip(ends[gaps].tolist(), begins[gaps].tolist(), strict=True)


def _pieces_of_data(extents: ExtentMap) -> Iterator[tuple[int, int]]:
    """Yield the data extents as (start, length), none longer than the block of zeroes."""
    for start, length, zero in extents:
        if not zero:
            for at in range(start, start + length, len(_ZEROES)):
                yield at, min(len(_ZEROES), start + length - at)
