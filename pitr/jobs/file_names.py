# SPDX-License-Identifier: GPL-2.0-or-later
"""Make safe file names for disks: a name from the engine is data, never a path."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pitr.model import Stream

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST = 100


def safe(name: str) -> str:
    """Return `name` with "_" in place of all characters that a file system or shell could interpret."""
    return _UNSAFE.sub("_", name).strip("._-")[:_LONGEST]


def file_names(streams: Sequence[Stream], extension: str) -> dict[str, str]:
    """Return a file name for each disk, by disk id. Names that would clash or be empty get the disk's id."""
    stems = {stream.disk_id: safe(stream.name) for stream in streams}
    # Some file systems ignore case.
    clashes = Counter(stem.casefold() for stem in stems.values())
    with_id = {disk_id: f"{stem}-{disk_id}".lstrip("-") for disk_id, stem in stems.items()}
    chosen = {
        disk_id: stem if stem and clashes[stem.casefold()] == 1 else with_id[disk_id]
        for disk_id, stem in stems.items()
    }
    if len({name.casefold() for name in chosen.values()}) < len(chosen):
        # One disk's name can be another disk's name with its id.
        chosen = with_id
    return {disk_id: f"{name}{extension}" for disk_id, name in chosen.items()}
