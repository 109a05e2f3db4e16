# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of points with what a removal knows about them, kept compressed in a temporary file.

A plan for a repository can have millions of points, and as Python objects each takes several kilobytes.
"""

from __future__ import annotations

import pickle
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from pitr.jobs.facts import NO_FACTS, PointFacts
from pitr.model import Backup

#: Points that are compressed together.
_CHUNK = 64
#: Up to this size the chunks stay in memory.
_IN_MEMORY = 1 << 20


@dataclass(frozen=True, slots=True)
class ListedPoint:
    """A point, the reasons why it is kept, and the facts about it from before the removal."""

    backup: Backup
    reasons: tuple[str, ...] = ()
    facts: PointFacts = NO_FACTS


class PointList(Sequence[Backup]):
    """A list of backups that takes little memory. It can only grow, and iterates in the order of the additions."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed with the list
        # The place of each chunk in the file; its bytes if the file cannot be written.
        self._chunks: list[tuple[int, int] | bytes] = []
        self._last: list[ListedPoint] = []
        self._end = 0
        self._of_vm: Counter[str] = Counter()

    def add(self, backup: Backup, reasons: Sequence[str] = (), facts: PointFacts = NO_FACTS) -> None:
        """Add a point."""
        self._of_vm[backup.vm.id] += 1
        self._last.append(ListedPoint(backup, tuple(reasons), facts))
        if len(self._last) == _CHUNK:
            self._chunks.append(self._stored(zlib.compress(pickle.dumps(self._last), 1)))
            self._last = []

    def _stored(self, chunk: bytes) -> tuple[int, int] | bytes:
        try:
            self._file.seek(self._end)
            self._file.write(chunk)
            self._file.flush()
        except OSError:
            # A full disk is a reason to prune, and must not end it.
            return chunk
        self._end += len(chunk)
        return self._end - len(chunk), len(chunk)

    def items(self) -> Iterator[ListedPoint]:
        """Yield the points with their reasons and facts."""
        for place in self._chunks:
            if isinstance(place, bytes):
                chunk = place
            else:
                self._file.seek(place[0])
                chunk = self._file.read(place[1])
            # This process wrote it, to a file without a name.
            yield from pickle.loads(zlib.decompress(chunk))  # noqa: S301
        yield from self._last

    def facts(self) -> dict[str, PointFacts]:
        """Return the facts about the points that have any, by backup id."""
        return {item.backup.backup_id: item.facts for item in self.items() if item.facts != NO_FACTS}

    def count_of_vm(self, vm_id: str) -> int:
        """Return the number of the points of a VM."""
        return self._of_vm[vm_id]

    def __iter__(self) -> Iterator[Backup]:
        return (item.backup for item in self.items())

    def __len__(self) -> int:
        return self._of_vm.total()

    @overload
    def __getitem__(self, index: int) -> Backup: ...
    @overload
    def __getitem__(self, index: slice) -> list[Backup]: ...
    def __getitem__(self, index: int | slice) -> Backup | list[Backup]:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, PointList | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PointList({list(self)!r})"
