# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server serves: contents that can be read at any offset, under names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pitr.extents import ExtentMap
from pitr.nbd.protocol import MAX_TEXT


class ExportContent(Protocol):
    """Something to read, by any number of threads at once; all offsets and lengths are bytes."""

    @property
    def size(self) -> int: ...

    @property
    def read_ahead(self) -> int:
        """How much it is worth to `ask` for before it is read."""

    def extents(self) -> ExtentMap:
        """Data and zero ranges, without gaps, from 0 to `size`."""

    def read(self, offset: int, length: int) -> Iterator[tuple[int, memoryview | None]]:
        """Give the range piece by piece: how many bytes, and these, or None where they are zero.

        Raises PitrError where a piece cannot be read; the pieces before it are good.
        """

    def is_ready(self, offset: int, length: int) -> bool:
        """Whether reading this would not have to wait for anything."""

    def ask(self, offset: int, length: int) -> None:
        """Have this range, as far as there is any of it, ready soon. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Export:
    """A content under its `names`, the first of which is the one that is listed; `description` is for people."""

    names: tuple[str, ...]
    description: str
    content: ExportContent


class Exports:
    """Exports by name. The first one that claims a name has it."""

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
        """Each export once, with its first name."""
        return self._listed
