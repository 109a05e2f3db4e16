# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point: its chain, opened and resolved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from pitr.errors import FormatError
from pitr.model import Backup, Stream
from pitr.repository.damage import of_stream
from pitr.repository.index import Frames
from pitr.repository.layers import LayerSource, layers_of
from pitr.repository.repository import Repository
from pitr.repository.resolver import Layer, PointMap, resolve

#: How many frames of a chain, at 64 bytes each, are kept while it is resolved. That is little memory beside millions
#: of extents. It holds all frames of many small incrementals, where opening the indexes is most of the work.
_MOST_KEPT = 1 << 17


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


def resolve_chain(
    repository: Repository, backup: Backup, stream: Stream, *, with_frames: bool = False
) -> ResolvedChain:
    """Check and combine the streams that `stream` is based on. Raises StoredDamage for a missing or damaged one.

    `with_frames` also reads the frames of small indexes, for callers that need frames.
    """
    # The catalog may still list a point whose record is lost or changed. That point is damaged too.
    repository.record_of(backup.backup_id)
    sources: list[LayerSource] = []
    layers: list[Layer] = []
    kept: dict[int, Frames] = {}
    room = _MOST_KEPT if with_frames else 0
    for owner, link in repository.chain(backup, stream):
        with repository.open_index(owner, link) as index:
            try:
                of_link = list(layers_of(owner, link, index))
            except FormatError as error:
                raise of_stream(owner.backup_id, link, "corrupt", "index", error.message) from None
            for source, layer in of_link:
                if 0 < len(layer.extents) <= room:
                    # A damaged layer may hold no visible range. A reader of its frames gets the error later.
                    with suppress(FormatError):
                        kept[len(layers)] = index.frames(source.number)
                        room -= len(layer.extents)
                sources.append(source)
                layers.append(layer)
    return ResolvedChain(resolve(layers), tuple(sources), kept)


def frames_of(repository: Repository, source: LayerSource) -> Frames:
    """Return the frames of one layer. Raises StoredDamage."""
    with repository.open_index(source.backup, source.indexed) as index:
        try:
            return index.frames(source.number)
        except FormatError as error:
            raise of_stream(
                source.backup.backup_id, source.indexed, "corrupt", "index", error.message
            ) from None
