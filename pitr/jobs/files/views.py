# SPDX-License-Identifier: GPL-2.0-or-later
"""What views of several points have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pitr.endpoints.points.cached_point import SharedFrames
from pitr.model import Stream
from pitr.repository.chain import KnownLayers
from pitr.units import MIB

#: The size of the frames that are kept from point to point.
_KEPT: Final = 64 * MIB


class Views:
    """What several points of a VM share that are opened one after the other, and which ranges of the disks were read.

    `read` has the ranges by disk id, as (start, end) in bytes, since the last `forget`.
    """

    def __init__(self) -> None:
        self.layers = KnownLayers()
        self.frames = SharedFrames(_KEPT)
        self.read: dict[str, set[tuple[int, int]]] = {}

    def reading(self, stream: Stream) -> Callable[[int, int], None]:
        """Return the function that gets what is read of this disk."""
        ranges = self.read.setdefault(stream.disk_id, set())
        return lambda offset, length: ranges.add((offset, offset + length))

    def forget(self) -> None:
        """Forget which ranges were read."""
        self.read = {}
