# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk at a point: its chain opened and resolved."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.damage import of_stream
from pitr.errors import FormatError
from pitr.model import Backup, Stream
from pitr.repository.repository import Repository
from pitr.resolver import Layer, PointMap, resolve


@dataclass(frozen=True, slots=True)
class ResolvedChain:
    """The map of a disk at a point, and the streams that its layers are, newest first."""

    map: PointMap
    chain: tuple[tuple[Backup, Stream], ...]


def resolve_chain(repository: Repository, backup: Backup, stream: Stream) -> ResolvedChain:
    """Check and combine the chain that `stream` stands on. Raises StoredDamage; nothing is guessed."""
    # The catalog may still know what a record said that is gone or changed since: that point is damaged as well.
    repository.record_of(backup.backup_id)
    chain = repository.chain(backup, stream)
    return ResolvedChain(resolve([_layer(repository, *link) for link in chain]), tuple(chain))


def _layer(repository: Repository, backup: Backup, stream: Stream) -> Layer:
    with repository.open_index(backup, stream) as index:
        try:
            return Layer(index.extents(), stream.size)
        except FormatError as error:
            raise of_stream(backup.backup_id, stream, "corrupt", "index", error.message) from None
