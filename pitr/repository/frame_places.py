# SPDX-License-Identifier: GPL-2.0-or-later
"""The places of the frames that a window needs, with little work for each frame: it holds Python's lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pitr.repository.index import Frames

#: Up to so many pieces, scalars are faster than arrays. In a long chain, a window has one or two pieces of each stream.
_FEW = 3

#: A piece of a window: its start and end on the disk, and its offset in the buffer.
WindowPiece = tuple[int, int, int]


class FramePlace(NamedTuple):
    """A frame: `offset` and `end` in the blob, its first byte on the disk, its data's length in bytes, its digest.

    `pieces` are those of the window that are in the frame.
    """

    number: int
    offset: int
    end: int
    origin: int
    length: int
    digest: bytes
    pieces: list[WindowPiece]


def places_of(frames: Frames, pieces: Sequence[WindowPiece]) -> list[FramePlace]:
    """Return the frames that have the pieces, which are in the order of the disk."""
    few = len(pieces) <= _FEW
    numbers = [_number_of(frames, piece[0]) for piece in pieces] if few else _numbers_of(frames, pieces)
    by_frame: dict[int, list[WindowPiece]] = {}
    for number, piece in zip(numbers, pieces, strict=True):
        by_frame.setdefault(number, []).append(piece)
    if few:
        return [_place(frames, number, inside) for number, inside in by_frame.items()]
    chosen = np.fromiter(by_frame, np.int64, len(by_frame))
    offset = frames.blob_offset[chosen]
    digests = frames.digests.reshape(-1, 32)[chosen].tobytes()
    columns = (
        offset.tolist(),
        (offset + frames.blob_length[chosen]).tolist(),
        (frames.start[chosen] - frames.skip[chosen]).tolist(),
        frames.frame_length[chosen].tolist(),
        [digests[at : at + 32] for at in range(0, len(digests), 32)],
        by_frame.values(),
    )
    return list(map(FramePlace, by_frame, *columns))


def _numbers_of(frames: Frames, pieces: Sequence[WindowPiece]) -> list[int]:
    starts = np.array([piece[0] for piece in pieces], np.int64)
    numbers: list[int] = frames.numbers_of(starts).tolist()
    return numbers


def _number_of(frames: Frames, start: int) -> int:
    number = frames.start.searchsorted(start, side="right") - 1
    return int(frames.blob_offset.searchsorted(frames.blob_offset[number], side="left"))


def _place(frames: Frames, number: int, pieces: list[WindowPiece]) -> FramePlace:
    offset = int(frames.blob_offset[number])
    end, length = offset + int(frames.blob_length[number]), int(frames.frame_length[number])
    return FramePlace(number, offset, end, frames.origin(number), length, frames.digest(number), pieces)
