# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point: its chain, opened and resolved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pitr.errors import FormatError
from pitr.model import Backup, Stream
from pitr.repository.damage import of_stream
from pitr.repository.index import Frames, Index
from pitr.repository.layers import LayerSource, layers_of
from pitr.repository.repository import Repository
from pitr.repository.resolver import Layer, PointMap, resolve
from pitr.repository.stored_index import ManyIndexes

#: How many frames of a chain, at 64 bytes each, are kept while it is resolved. That is little memory beside millions
#: of extents. It holds all frames of many small incrementals, where opening the indexes is most of the work.
_MOST_KEPT = 1 << 17
#: An index of up to so many rows is read in one pass, which takes 400 bytes for each. With many parts, one pass for
#: each would take much longer.
_AT_ONCE = 1 << 13
_AT_ONCE_OF_PARTS = 1 << 16


@dataclass(frozen=True, slots=True)
class ResolvedChain:
    """The map of a disk at a point, and the streams that hold the data of its layers, newest first.

    A stream that uses frames of others has several layers, one for each blob, and `chain` names the streams of these
    blobs with the backup that uses them. `sources` tells from which index each layer comes. `frames` has the frames of
    some layers, by the layer's number, if the caller asked for them.
    """

    map: PointMap
    sources: tuple[LayerSource, ...]
    frames: dict[int, Frames] = field(default_factory=dict, repr=False)

    @property
    def chain(self) -> tuple[tuple[Backup, Stream], ...]:
        """The backup and the stream of each layer."""
        return tuple((source.backup, source.stream) for source in self.sources)


class KnownLayers:
    """What the chains of several points have in common: records by backup, and small layers by stream.

    Each is read once while the points are opened one after the other.
    """

    def __init__(self) -> None:
        self.records: dict[str, Backup] = {}
        self.layers: dict[str, list[_ReadLayer]] = {}
        self._room = _MOST_KEPT

    def keep(self, stream: Stream, layers: list[_ReadLayer]) -> None:
        """Keep the layers of a stream, if there is room."""
        rows = sum(len(read.layer.extents) for read in layers)
        if rows <= self._room:
            self._room -= rows
            self.layers[stream.stream_id] = layers


@dataclass(frozen=True, slots=True)
class _ReadLayer:
    """A layer, its source, and its frames if they were asked for and are few."""

    source: LayerSource
    layer: Layer
    frames: Frames | None


def resolve_chain(
    repository: Repository,
    backup: Backup,
    stream: Stream,
    *,
    with_frames: bool = False,
    known: KnownLayers | None = None,
) -> ResolvedChain:
    """Check and combine the streams that `stream` is based on. Raises StoredDamage for a missing or damaged one.

    `with_frames` also reads the frames of small indexes, for callers that need frames; all callers that share `known`
    do, or none.
    """
    repository.check_opens()
    # The catalog may still list a point whose record is lost or changed. That point is damaged too.
    repository.record_of(backup.backup_id)
    known = known or KnownLayers()
    sources: list[LayerSource] = []
    layers: list[Layer] = []
    kept: dict[int, Frames] = {}
    room = _MOST_KEPT if with_frames else 0
    with ManyIndexes(repository) as indexes:
        # The indexes of a bucket have copies on this machine.
        in_folder = repository.path == repository.location
        open_index = indexes.opened if in_folder else repository.open_index
        for owner, link in repository.chain(backup, stream, known.records):
            known.records[owner.backup_id] = owner
            of_link = known.layers.get(link.stream_id)
            if of_link is None:
                of_link = _read_layers(open_index, owner, link, room)
                known.keep(link, of_link)
            for read in of_link:
                if read.frames is not None and len(read.layer.extents) <= room:
                    kept[len(layers)] = read.frames
                    room -= len(read.layer.extents)
                sources.append(read.source)
                layers.append(read.layer)
    return ResolvedChain(resolve(layers), tuple(sources), kept)


def _read_layers(
    open_index: Callable[[Backup, Stream], Index], owner: Backup, link: Stream, room: int
) -> list[_ReadLayer]:
    """Read the layers of one stream, with the frames of at most `room` extents. Raises StoredDamage."""
    with open_index(owner, link) as index:
        # A damaged frame may be in no visible range. A reader of the frames gets the error later.
        maps = None
        limit = min(room, _AT_ONCE if len(index.parts) == 1 else _AT_ONCE_OF_PARTS)
        with suppress(FormatError):
            maps = index.maps(limit) if limit else None
        try:
            of_link = list(layers_of(owner, link, index, maps))
        except FormatError as error:
            raise of_stream(owner.backup_id, link, "corrupt", "index", error.message) from None
        read: list[_ReadLayer] = []
        for source, layer in of_link:
            frames = None
            if 0 < len(layer.extents) <= room:
                with suppress(FormatError):
                    frames = index.frames(source.number) if maps is None else maps.frames.get(source.number)
                    room -= len(layer.extents)
            read.append(_ReadLayer(source, layer, frames))
        return read


def frames_of(repository: Repository, source: LayerSource) -> Frames:
    """Return the frames of one layer. Raises StoredDamage."""
    with repository.open_index(source.backup, source.indexed) as index:
        try:
            return index.frames(source.number)
        except FormatError as error:
            raise of_stream(
                source.backup.backup_id, source.indexed, "corrupt", "index", error.message
            ) from None
