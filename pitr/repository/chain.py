# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point: its chain, opened and resolved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from pitr.errors import FormatError
from pitr.model import Backup, Stream
from pitr.repository.damage import of_stream
from pitr.repository.index import Frames
from pitr.repository.repository import Repository
from pitr.repository.resolver import Layer, PointMap, resolve

#: How many frames of a chain, at 64 bytes each, are kept while it is resolved. That is little memory beside millions
#: of extents. It holds all frames of many small incrementals, where opening the indexes is most of the work.
_MOST_KEPT = 1 << 17


@dataclass(frozen=True, slots=True)
class ResolvedChain:
    """The map of a disk at a point, and the streams of its layers, newest first.

    `frames` has the frames of some layers, by the layer's number, if the caller asked for them.
    """

    map: PointMap
    chain: tuple[tuple[Backup, Stream], ...]
    frames: dict[int, Frames] = field(default_factory=dict, repr=False)


def resolve_chain(
    repository: Repository, backup: Backup, stream: Stream, *, with_frames: bool = False
) -> ResolvedChain:
    """Check and combine the streams that `stream` is based on. Raises StoredDamage for a missing or damaged one.

    `with_frames` also reads the frames of small indexes, for callers that need frames.
    """
    # The catalog may still list a point whose record is lost or changed. That point is damaged too.
    repository.record_of(backup.backup_id)
    chain = repository.chain(backup, stream)
    layers: list[Layer] = []
    kept: dict[int, Frames] = {}
    room = _MOST_KEPT if with_frames else 0
    for owner, part in chain:
        with repository.open_index(owner, part) as index:
            try:
                extents = index.extents()
            except FormatError as error:
                raise of_stream(owner.backup_id, part, "corrupt", "index", error.message) from None
            if 0 < len(extents) <= room:
                # A damaged layer may hold no visible range. A reader of its frames gets the error later.
                with suppress(FormatError):
                    kept[len(layers)] = index.frames()
                    room -= len(extents)
        layers.append(Layer(extents, part.size))
    return ResolvedChain(resolve(layers), tuple(chain), kept)


def frames_of(repository: Repository, backup: Backup, stream: Stream) -> Frames:
    """Return the frames of one stream. Raises StoredDamage."""
    with repository.open_index(backup, stream) as index:
        try:
            return index.frames()
        except FormatError as error:
            raise of_stream(backup.backup_id, stream, "corrupt", "index", error.message) from None
