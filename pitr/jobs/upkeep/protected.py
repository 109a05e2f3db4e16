# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run extended of the protection from removal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pitr import times


@dataclass(frozen=True, slots=True)
class Protected:
    """What a run extended: `objects` are all that the points need, `missing` those that do not exist.

    `extended` had less time left than until `until`, in a dry run, too.
    """

    until: datetime
    points: int
    objects: int
    extended: int
    missing: tuple[str, ...]

    def as_document(self) -> dict[str, Any]:
        """Return what was extended, for JSON."""
        return {
            "until": times.to_text(self.until),
            "points": self.points,
            "objects": self.objects,
            "extended": self.extended,
            "missing": list(self.missing),
        }
