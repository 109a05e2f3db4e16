# SPDX-License-Identifier: GPL-2.0-or-later
"""Find files with passwords that other users can read."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

_OTHERS = stat.S_IRGRP | stat.S_IROTH


def readable_by_others(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each file that a group or all users can read, and who can. A file that does not exist is left out."""
    for path in dict.fromkeys(paths):
        try:
            mode = path.stat().st_mode
        except OSError:
            # pitr reports a file that it cannot read when it needs its password.
            continue
        if mode & _OTHERS and stat.S_ISREG(mode):
            yield path, "all users" if mode & stat.S_IROTH else f"the group {_group(path)}"


def _group(path: Path) -> str:
    try:
        return path.group()
    except KeyError:
        return str(path.stat().st_gid)
