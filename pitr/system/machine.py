# SPDX-License-Identifier: GPL-2.0-or-later
"""What this process can have of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Each line of it is `NUMBER:CONTROLLERS:/PATH`; version 2 of control groups has no controllers there (cgroups(7)).
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def memory_bytes() -> int:
    """The most memory that this process could take: the machine's, or what its control groups leave of it."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        # A system without control groups.
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits(_CGROUPS, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(_CGROUPS / "memory", path, "memory.limit_in_bytes")


def _limits(root: Path, path: str, name: str) -> Iterator[int]:
    group = root / path.lstrip("/")
    # Each group is bound by those that it is in. In a container the path may be that of the host: then it is the root.
    for one in (group, *group.parents):
        if one.is_relative_to(root):
            try:
                text = (one / name).read_text().strip()
            except OSError:
                # The outermost has none, nor one whose memory is not counted.
                continue
            if text.isdecimal():
                yield int(text)
