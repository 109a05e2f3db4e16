# SPDX-License-Identifier: GPL-2.0-or-later
"""An index that is read in one pass says the same as its queries, and a window finds its frames in either way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pitr.jobs.consolidate.one_point import consolidate
from pitr.model import Backup
from pitr.repository import Repository
from pitr.repository.chain import resolve_chain
from pitr.repository.frame_places import FramePlace, WindowPiece, places_of
from pitr.repository.index import Frames, Index
from tests.support.points import Writer, read_point

_COLUMNS = ("start", "length", "blob_offset", "blob_length", "frame_length", "skip", "digests")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / "repository") as opened:
        yield opened


@pytest.fixture
def stand_in(repository: Repository) -> Backup:
    """A point whose index uses frames of three other blobs, and which has zeroes."""
    writer = Writer(repository)
    for text in ("3m:A 1m:0 64k:B", "1m:- 64k:C 3m:- 64k:-", "512k:- 64k:D 1m:- 128k:0 2m:E 384k:-"):
        writer.add(text)
    return consolidate(repository, writer.backups[-1]).created[-1]


def _same(one: Frames, other: Frames) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _COLUMNS)


def test_one_pass_reads_what_the_queries_read(repository: Repository, stand_in: Backup) -> None:
    with repository.open_index(stand_in, stand_in.streams[0]) as index:
        maps = index.maps(index.count())
        assert maps is not None
        assert list(maps.extents) == list(index.extents())
        assert maps.parts.tolist() == index.part_numbers().tolist()
        assert len(maps.frames) > 2
        assert all(_same(frames, index.frames(number)) for number, frames in maps.frames.items())
        assert index.maps(index.count() - 1) is None


def test_a_point_with_many_parts_needs_one_pass(
    repository: Repository, stand_in: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_point(repository, stand_in, stand_in.streams[0])
    slow = resolve_chain(repository, stand_in, stand_in.streams[0])
    for name in ("frames", "extents", "part_numbers"):
        monkeypatch.delattr(Index, name)
    fast = resolve_chain(repository, stand_in, stand_in.streams[0], with_frames=True)
    assert fast.sources == slow.sources
    assert fast.map.row.tolist() == slow.map.row.tolist()
    assert sorted(fast.frames) == fast.map.layers_of_data()
    assert read_point(repository, stand_in, stand_in.streams[0]) == expected


def test_few_pieces_have_the_places_of_many(repository: Repository, stand_in: Backup) -> None:
    resolved = resolve_chain(repository, stand_in, stand_in.streams[0], with_frames=True)
    compared = 0
    for layer in resolved.map.layers_of_data():
        chosen = (resolved.map.layer == layer) & ~resolved.map.zero
        starts, lengths = resolved.map.start[chosen].tolist(), resolved.map.length[chosen].tolist()
        pieces = [(start, start + length, 0) for start, length in zip(starts, lengths, strict=True)]
        # More than a few: the same pieces again and again.
        many = places_of(resolved.frames[layer], [piece for piece in pieces for _ in range(4)])
        alone = [place for piece in pieces for place in places_of(resolved.frames[layer], [piece])]
        assert list(_merged(alone)) == [place._replace(pieces=place.pieces[::4]) for place in many]
        compared += len(pieces)
    assert compared > 4


def _merged(places: list[FramePlace]) -> Iterator[FramePlace]:
    """Yield each frame once, with the pieces of all."""
    pieces: dict[int, list[WindowPiece]] = {}
    for place in places:
        pieces.setdefault(place.number, []).extend(place.pieces)
    for number, of_frame in pieces.items():
        yield next(place for place in places if place.number == number)._replace(pieces=of_frame)
