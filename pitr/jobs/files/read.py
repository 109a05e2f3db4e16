# SPDX-License-Identifier: GPL-2.0-or-later
"""Read one file at a point from start to end."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.errors import UsageError
from pitr.guest.filesystem import EntryKind
from pitr.jobs.files.volumes import Place
from pitr.text import printable
from pitr.units import MIB


def read_file(place: Place) -> Iterator[bytes]:
    """Yield all bytes of a file in pieces of at most 1 MiB, holes as zeroes.

    Raises UsageError if the place is not a file, FileSystemError, StoredDamage.
    """
    if place.node.kind is not EntryKind.FILE:
        raise UsageError(f"{printable(place.path)} is a {place.node.kind}, not a file")
    file_system = place.file_system
    content = file_system.content(place.node)
    at = 0
    for offset, data in file_system.pieces(content):
        yield from _zeroes(offset - at)
        yield data
        at = offset + len(data)
    yield from _zeroes(content.size - at)


def _zeroes(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, MIB))
        length -= MIB
