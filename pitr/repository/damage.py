# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage of stored objects, as a value and as an error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pitr.errors import DamageError
from pitr.model import Backup, Stream
from pitr.text import printable

DamageKind = Literal["missing", "corrupt", "truncated", "inconsistent"]
What = Literal["blob", "index", "record", "frame", "parent", "configuration"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One finding. `start` and `length` are bytes of the disk for a frame, else of the object; None if unknown.

    `points_lost` has the ids of all backups that pitr cannot restore completely because of the damage.
    """

    backup_id: str | None
    disk_id: str | None
    stream_id: str | None
    kind: DamageKind
    what: What
    message: str
    start: int | None = None
    length: int | None = None
    points_lost: tuple[str, ...] = ()

    def losing(self, points: tuple[str, ...]) -> Damage:
        """Return this finding with the lost points."""
        return replace(self, points_lost=points)


class StoredDamage(DamageError):
    """A stored object is damaged; `damage` has the details."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(damage.message)
        self.damage = damage


class CatalogDiffers(StoredDamage):
    """The catalog does not agree with a record. The stored data may be good, and a rebuild may mend the catalog."""


def of_stream(
    backup_id: str,
    stream: Stream,
    kind: DamageKind,
    what: What,
    message: str,
    start: int | None = None,
    length: int | None = None,
) -> StoredDamage:
    """Return the error for a damaged object or frame of a stream."""
    text = (
        f"{what} of disk {printable(stream.name)}: {message} "
        f"(backup {backup_id}, disk {stream.disk_id}, stream {stream.stream_id})"
    )
    return StoredDamage(Damage(backup_id, stream.disk_id, stream.stream_id, kind, what, text, start, length))


def of_record(backup_id: str | None, kind: DamageKind, message: str) -> StoredDamage:
    """Return the error for a damaged record."""
    return StoredDamage(Damage(backup_id, None, None, kind, "record", message))


def compare_size(backup: Backup, stream: Stream, what: What, actual: int, recorded: int) -> None:
    """Raise StoredDamage if an object of a stream has another size than its record says, in bytes."""
    if actual != recorded:
        kind: DamageKind = "truncated" if actual < recorded else "inconsistent"
        message = f"it has {actual} bytes instead of {recorded}"
        raise of_stream(
            backup.backup_id, stream, kind, what, message, min(actual, recorded), abs(actual - recorded)
        )
