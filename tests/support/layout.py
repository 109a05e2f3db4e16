# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies in a repository, from the names of its files as docs/format.md gives them."""

from __future__ import annotations

from pathlib import Path

from pitr.repository import Repository


def stored(repository: Repository) -> list[str]:
    """The names of all blobs and indexes."""
    return sorted([*repository.store.list("blobs"), *repository.store.list("indexes")])


def open_states(repository: Path, begun: str, ended: str) -> set[str]:
    """The keys of the states that have begun and not ended."""
    keys = {
        kind: {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        for kind in (begun, ended)
        if (folder := repository / "control" / kind)
    }
    return keys[begun] - keys[ended]
