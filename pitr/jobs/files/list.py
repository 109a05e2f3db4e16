# SPDX-License-Identifier: GPL-2.0-or-later
"""List the files in a folder at a point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pitr.errors import FileSystemError
from pitr.guest.filesystem import EntryKind, FileSystem, Node
from pitr.jobs.files.volumes import CIRCLE, Place


@dataclass(frozen=True, slots=True)
class Listed:
    """A file with its path. Without a node, `problem` says why pitr cannot read the file."""

    path: str
    node: Node | None
    target: str | None = None
    problem: str | None = None


def list_files(place: Place, *, recursive: bool = False) -> Iterator[Listed]:
    """Yield the entries of a folder by name, with all files below them if `recursive`; a file yields itself.

    Raises FileSystemError if the folder itself is unreadable, StoredDamage.
    """
    if place.node.kind is not EntryKind.FOLDER:
        yield _listed(place.file_system, place.path, place.node)
        return
    # A list of paths instead of recursion: a deep tree must not exhaust the stack.
    seen = {place.node.key}
    waiting = [(place.path, place.node)]
    while waiting:
        path, folder = waiting.pop()
        below: list[tuple[str, Node]] = []
        try:
            entries = sorted(place.file_system.entries(folder), key=lambda entry: entry.name)
        except FileSystemError as error:
            if folder is place.node:
                raise
            yield Listed(path, None, problem=error.message)
            continue
        for entry in entries:
            inner = f"{path.rstrip('/')}/{entry.name}"
            if entry.node is None:
                yield Listed(inner, None, problem=entry.problem)
                continue
            yield _listed(place.file_system, inner, entry.node)
            if recursive and entry.node.kind is EntryKind.FOLDER:
                if entry.node.key in seen:
                    yield Listed(inner, None, problem=CIRCLE)
                else:
                    seen.add(entry.node.key)
                    below.append((inner, entry.node))
        waiting += below[::-1]


def _listed(file_system: FileSystem, path: str, node: Node) -> Listed:
    if node.kind is not EntryKind.LINK:
        return Listed(path, node)
    try:
        return Listed(path, node, target=file_system.target(node))
    except FileSystemError as error:
        return Listed(path, node, problem=error.message)
