# SPDX-License-Identifier: GPL-2.0-or-later
"""The exports of a server: contents that can be read at any offset, under names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pitr.extents import ExtentMap
from pitr.nbd.protocol import MAX_TEXT


class ExportContent(Protocol):
    """A content that any number of threads can read at once. Offsets and lengths are bytes."""

    @property
    def size(self) -> int: ...

    @property
    def read_ahead(self) -> int:
        """Return how many bytes ahead of a read to `ask` for."""

    def extents(self) -> ExtentMap:
        """Return the data and zero ranges, without gaps, from 0 to `size`."""

    def read(self, offset: int, length: int) -> Iterator[tuple[int, memoryview | None]]:
        """Yield the range in pieces: the number of bytes, and the bytes, or None where they are zero.

        Raises PitrError for a piece that cannot be read. The pieces before it are valid.
        """

    def is_ready(self, offset: int, length: int) -> bool:
        """Return whether this range can be read without waiting."""

    def ask(self, offset: int, length: int) -> None:
        """Load the part of this range that lies inside the content ahead of its use. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Export:
    """A content and its `names`. A list shows the first name, and the `description` for people."""

    names: tuple[str, ...]
    description: str
    content: ExportContent


class Exports:
    """Exports by name. The first export that claims a name gets it."""

    def __init__(self, exports: Sequence[Export]) -> None:
        self._by_name: dict[bytes, Export] = {}
        for export in exports:
            for name in export.names:
                encoded = name.encode(errors="replace")
                if len(encoded) <= MAX_TEXT:
                    self._by_name.setdefault(encoded, export)
        self._listed = [(export.names[0].encode(errors="replace"), export) for export in exports]

    def named(self, name: bytes) -> Export | None:
        return self._by_name.get(name)

    def listed(self) -> list[tuple[bytes, Export]]:
        """Return each export once, with its first name."""
        return self._listed
