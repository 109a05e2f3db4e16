# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths with the wildcards of a shell: *, ? and [...], each within one name. A leading dot must be written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from pitr.errors import FileSystemError, NoSuchFile, UsageError
from pitr.guest.filesystem import EntryKind, FileSystem, Node
from pitr.guest.filesystem.paths import look_up
from pitr.jobs.files.volumes import GuestVolume, Place, Volumes
from pitr.text import printable

_WILD = re.compile(r"[*?\[]")


def places_of(volumes: Volumes, path: str, volume: str | None = None, *, follow: bool = True) -> list[Place]:
    """Return the places that a path names: one, or with wildcards all that match, sorted by path.

    A file that has this very name is taken first. `follow`: follow a link at the end of the path. Raises NoSuchFile if
    there is none, UsageError if several volumes have some, FileSystemError, StoredDamage.
    """
    if not has_wildcards(path):
        return [volumes.locate(path, volume, follow=follow)]
    searched = [volumes.volume_named(volume)] if volume is not None else list(volumes.all)
    unreadable: list[FileSystemError] = []

    def matching(each: GuestVolume) -> list[Place]:
        return _matches(volumes, each, path, follow)

    found = _in_each(searched, lambda each: _named(volumes, each, path, follow), unreadable)
    found = found or _in_each(searched, matching, unreadable)
    if not found and unreadable:
        raise unreadable[0]
    if not found and volume is None:
        # Only now, because it takes long: libguestfs may read more volumes.
        try:
            return [volumes.locate(path, follow=follow)]
        except NoSuchFile:
            more = [each for each in volumes.all if each not in searched]
            found = _in_each(more, matching, unreadable)
    if len(found) > 1:
        names = ", ".join(name for _, name in found)
        raise UsageError(
            f"several volumes have files that match {printable(path)}", f"Choose one with --volume: {names}."
        )
    if not found:
        raise NoSuchFile(
            f"nothing matches {printable(path)} at this point",
            "Wildcards stand within one name: /var/log/*.log, not /var/*.log",
        )
    return next(iter(found.values()))


def has_wildcards(path: str) -> bool:
    """Return whether a path holds wildcards."""
    return _WILD.search(path) is not None


_Found = dict[tuple[str, str], list[Place]]
"""Places by disk id and volume."""


def _in_each(
    searched: Sequence[GuestVolume],
    look: Callable[[GuestVolume], list[Place]],
    unreadable: list[FileSystemError],
) -> _Found:
    """Return what `look` finds. The errors of volumes that cannot be read go to `unreadable`."""
    found: _Found = {}
    for each in searched:
        try:
            if each.readable and (places := look(each)):
                found[(each.disk.disk_id, each.name)] = places
        except FileSystemError as error:
            unreadable.append(error)
    return found


def _named(volumes: Volumes, volume: GuestVolume, path: str, follow: bool) -> list[Place]:
    """Return the place that has this very name, if there is one."""
    node = _node(volumes.open(volume), path, follow=follow)
    return [Place(volume, path, node)] if node is not None else []


def _matches(volumes: Volumes, volume: GuestVolume, path: str, follow: bool) -> list[Place]:
    file_system = volumes.open(volume)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    found: list[Place] = []
    for match in sorted(_expanded(file_system, "", parts)):
        found.append(Place(volume, match, look_up(file_system, match, follow=follow)))
    return found


def _expanded(file_system: FileSystem, folder: str, parts: list[str]) -> Iterator[str]:
    """Yield the existing paths in `folder` that match the names `parts`."""
    if not parts:
        yield folder or "/"
        return
    pattern, rest = parts[0], parts[1:]
    if not _WILD.search(pattern):
        inner = f"{folder}/{pattern}"
        if rest or _node(file_system, inner, follow=False) is not None:
            yield from _expanded(file_system, inner, rest)
        return
    above = _node(file_system, folder or "/", follow=True)
    if above is None or above.kind is not EntryKind.FOLDER:
        return
    for entry in file_system.entries(above):
        hidden = entry.name.startswith(".") and not pattern.startswith(".")
        if entry.node is not None and not hidden and fnmatchcase(entry.name, pattern):
            yield from _expanded(file_system, f"{folder}/{entry.name}", rest)


def _node(file_system: FileSystem, path: str, *, follow: bool) -> Node | None:
    try:
        return look_up(file_system, path, follow=follow)
    except NoSuchFile:
        return None
