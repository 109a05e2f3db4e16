# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths in a guest's file system. Links are followed as the guest follows them, and never lead out of it."""

from __future__ import annotations

from pitr.errors import FileSystemError, NoSuchFile
from pitr.guest.filesystem.base import EntryKind, FileSystem, Node
from pitr.guest.filesystem.ntfs_links import inside_volume
from pitr.text import printable

#: The limit of the Linux kernel.
_MOST_LINKS = 40


def look_up(file_system: FileSystem, path: str, *, follow: bool = True) -> Node:
    """Return the node at an absolute path. With `follow`, follow a link at its end.

    Raises NoSuchFile and FileSystemError.
    """
    above: list[Node] = [file_system.root()]
    parts = path.split("/")[::-1]
    links = 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            above = above[:-1] or above
            continue
        if above[-1].kind is not EntryKind.FOLDER:
            raise NoSuchFile(
                f"{printable(path)} does not exist on {file_system.name}: its parent is not a folder"
            )
        node = file_system.child(above[-1], part)
        if node is None:
            raise NoSuchFile(f"{printable(path)} does not exist on {file_system.name}")
        if node.kind is EntryKind.LINK and (follow or any(parts)):
            links += 1
            if links > _MOST_LINKS:
                raise FileSystemError(f"{printable(path)} leads through more than {_MOST_LINKS} links")
            target = inside_volume(file_system.target(node))
            if target.startswith("/"):
                above = above[:1]
            parts += target.split("/")[::-1]
            continue
        above.append(node)
    return above[-1]
