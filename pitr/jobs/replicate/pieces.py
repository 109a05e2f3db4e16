# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects that a point needs: blobs, also those of other streams, and indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pitr.model import Backup, StoredObject, Stream
from pitr.repository import names
from pitr.repository.damage import DamageKind, StoredDamage, What, of_stream


@dataclass(frozen=True, slots=True)
class Piece:
    """An object that a point needs: its name, and what its record says of its bytes.

    `twins` are the names of other objects with the same bytes.
    """

    name: str
    what: What
    expected: StoredObject
    backup: Backup
    stream: Stream
    twins: tuple[str, ...] = ()

    @property
    def is_blob(self) -> bool:
        return self.what == "blob"

    def damage(self, kind: DamageKind, message: str) -> StoredDamage:
        """Return the error for this object."""
        return of_stream(self.backup.backup_id, self.stream, kind, self.what, message)


def pieces_of(backup: Backup, is_here: Callable[[Stream], bool]) -> Iterator[Piece]:
    """Yield the objects of a point, the blobs first. `is_here`: whether the blob of a stream is not external."""
    for stream in backup.streams:
        if stream.blob is not None and is_here(stream):
            name = names.blob(stream.disk_id, stream.stream_id)
            yield Piece(name, "blob", stream.blob, backup, stream)
        for part in stream.parts:
            if part.stream_id != stream.stream_id:
                used = replace(stream, disk_id=part.disk_id, stream_id=part.stream_id)
                name = names.blob(part.disk_id, part.stream_id)
                yield Piece(name, "blob", part.blob, backup, used)
    for stream in backup.streams:
        first = names.index(stream.disk_id, stream.stream_id)
        second = names.index_copy(stream.disk_id, stream.stream_id)
        if stream.index_copy is None:
            yield Piece(first, "index", stream.index, backup, stream)
        else:
            yield Piece(first, "index", stream.index, backup, stream, (second,))
            yield Piece(second, "index", stream.index_copy, backup, stream, (first,))
