# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's resources that this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Each line is `NUMBER:CONTROLLERS:/PATH`. For version 2 of control groups CONTROLLERS is empty (cgroups(7)).
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")


def processors() -> int:
    """Return how many processors this process can use at the same time."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Return the bytes of memory that this process can use: the machine's, or less if a control group limits it."""
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
    # The limits of all parents apply too. In a container the path may be the host's; then only the root exists.
    for limiting in (group, *group.parents):
        if limiting.is_relative_to(root):
            try:
                text = (limiting / name).read_text().strip()
            except OSError:
                # The root group has no limit, and neither has a group without memory accounting.
                continue
            if text.isdecimal():
                yield int(text)
