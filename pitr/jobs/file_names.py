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
    with_id = {disk_id: f"{stem}-{disk_id}".lstrip("-") for disk_id, stem in stems.items()}
    chosen = {
        disk_id: stem if stem and clashes[stem.casefold()] == 1 else with_id[disk_id]
        for disk_id, stem in stems.items()
    }
    if len({name.casefold() for name in chosen.values()}) < len(chosen):
        # A disk can be named as another one's name with its id.
        chosen = with_id
    return {disk_id: f"{name}{extension}" for disk_id, name in chosen.items()}
