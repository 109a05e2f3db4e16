# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point: its chain opened and resolved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from pitr.errors import FormatError
from pitr.model import Backup, Stream
from pitr.repository.damage import of_stream
from pitr.repository.index import Frames
from pitr.repository.repository import Repository
from pitr.repository.resolver import Layer, PointMap, resolve

#: Frames take 64 bytes each. Up to this many of a chain are kept while it is resolved: nothing beside millions of
#: extents, and all of a chain of many small incrementals, where opening their indexes is most of the work.
_MOST_KEPT = 1 << 17


@dataclass(frozen=True, slots=True)
class ResolvedChain:
    """The map of a disk at a point, and the streams that its layers are, newest first.

    `frames`: those of some layers, where they were asked for.
    """

    map: PointMap
    chain: tuple[tuple[Backup, Stream], ...]
    frames: dict[int, Frames] = field(default_factory=dict, repr=False)


def resolve_chain(
    repository: Repository, backup: Backup, stream: Stream, *, with_frames: bool = False
) -> ResolvedChain:
    """Check and combine the chain that `stream` stands on. Raises StoredDamage; nothing is guessed.

    `with_frames`: the frames of indexes will be wanted, too; those of small ones are read now.
    """
    # The catalog may still know what a record said that is gone or changed since: that point is damaged as well.
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
                # Of a layer that holds nothing live, nobody needs them; who does, is told then.
                with suppress(FormatError):
                    kept[len(layers)] = index.frames()
                    room -= len(extents)
        layers.append(Layer(extents, part.size))
    return ResolvedChain(resolve(layers), tuple(chain), kept)


def frames_of(repository: Repository, backup: Backup, stream: Stream) -> Frames:
    """Where the frames of one stream lie. Raises StoredDamage."""
    with repository.open_index(backup, stream) as index:
        try:
            return index.frames()
        except FormatError as error:
            raise of_stream(backup.backup_id, stream, "corrupt", "index", error.message) from None
