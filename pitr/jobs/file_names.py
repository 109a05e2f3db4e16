# SPDX-License-Identifier: GPL-2.0-or-later
"""File names for disks: names from the engine are data, never paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pitr.model import Stream

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST = 100


def safe(name: str) -> str:
    """`name` with everything that could mean something to a file system or shell replaced by "_"."""
    return _UNSAFE.sub("_", name).strip("._-")[:_LONGEST]


def file_names(streams: Sequence[Stream], extension: str) -> dict[str, str]:
    """A file name for each disk, by its id; the id is appended where two disks would clash or nothing is left."""
    stems = {stream.disk_id: safe(stream.name) for stream in streams}
    # Some file systems do not tell upper case from lower.
    clashes = Counter(stem.casefold() for stem in stems.values())
    return {
        disk_id: f"{stem}{extension}"
        if stem and clashes[stem.casefold()] == 1
        else f"{stem}-{disk_id}{extension}".lstrip("-")
        for disk_id, stem in stems.items()
    }
