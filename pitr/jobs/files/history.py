# SPDX-License-Identifier: GPL-2.0-or-later
"""Every version of a file: its state at each point of a VM, equal neighbours as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import blake3

from pitr.errors import NoSuchFile, UsageError
from pitr.guest.filesystem import EntryKind, Node
from pitr.guest.filesystem.paths import look_up
from pitr.jobs.files.globs import places_of
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.read import read_file
from pitr.jobs.files.volumes import Place, Volumes
from pitr.jobs.files.walk import PointWalk, UnreadPoint
from pitr.model import Backup
from pitr.reporting import Notify, Progress
from pitr.repository import Repository


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A path; on the disk and the volume of these names, or on the only volume that has it."""

    path: str
    disk: str | None = None
    volume: str | None = None
    reader: FileReader = FileReader.OWN


@dataclass(frozen=True, slots=True)
class FileVersion:
    """A file that is equal at all these points, which follow each other, oldest first.

    `digest` is the BLAKE3 of its bytes, in hex, if it was asked for and the file can be read.
    """

    number: int
    points: list[Backup]
    node: Node
    digest: str | None


@dataclass(slots=True)
class FileHistory:
    """All versions of a file, oldest first, and the points that could not be read."""

    path: str
    versions: list[FileVersion] = field(default_factory=list)
    unread: list[UnreadPoint] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The file at one point; `node` is None where it does not exist."""

    node: Node | None
    digest: str | None

    @property
    def compared(self) -> tuple[object, ...] | None:
        """Return what two points must have in common; None if there is no file."""
        node = self.node
        if node is None:
            return None
        return node.kind, node.size, node.mtime_ns, node.mode, node.uid, node.gid, self.digest


_NOT_THERE = _Seen(None, None)


def file_history(
    repository: Repository,
    backups: Sequence[Backup],
    wanted: WantedFile,
    *,
    digests: bool = False,
    notify: Notify = lambda line: None,
    progress: Progress | None = None,
) -> FileHistory:
    """Return the versions of a file at `backups`, which are ordered by time, oldest first.

    `digests` also reads the file at each point, and tells versions apart by their bytes. Raises UsageError if several
    volumes have the path, NoSuchFile if no point has it.
    """
    history = FileHistory(wanted.path)
    sight = _Sight(wanted, digests)
    walk = PointWalk(
        repository, sight.look, _NOT_THERE, disk=wanted.disk, reader=wanted.reader, notify=notify
    )
    last: tuple[object, ...] | None = None
    for backup, seen in walk.over(backups, history.unread, progress):
        if seen.node is None:
            last = None
        elif seen.compared == last:
            history.versions[-1].points.append(backup)
        else:
            number = len(history.versions) + 1
            history.versions.append(FileVersion(number, [backup], seen.node, seen.digest))
            last = seen.compared
    if not history.versions and not history.unread:
        raise sight.missing or NoSuchFile(f"no point has {wanted.path}")
    return history


def matching_paths(
    repository: Repository,
    backups: Sequence[Backup],
    wanted: WantedFile,
    *,
    notify: Notify = lambda line: None,
    progress: Progress | None = None,
) -> list[str]:
    """Return the paths that the path with wildcards names at any of these points; oldest first.

    Points that cannot be read are left out: `file_history` reports them. Raises UsageError if several volumes match.
    """

    def look(volumes: Volumes) -> frozenset[str]:
        try:
            return frozenset(place.path for place in places_of(volumes, wanted.path, wanted.volume))
        except NoSuchFile:
            return frozenset()

    walk = PointWalk(
        repository, look, frozenset[str](), disk=wanted.disk, reader=wanted.reader, notify=notify
    )
    return sorted({path for _, paths in walk.over(backups, [], progress) for path in paths})


def backup_with_version(history: FileHistory, number: int) -> Backup:
    """Return the newest point that has this version of the file. Raises UsageError if there is no such version."""
    for version in history.versions:
        if version.number == number:
            return version.points[-1]
    raise UsageError(
        f"{history.path} has no version {number}",
        f"Its versions are 1 to {len(history.versions)}: see 'pitr files history'.",
    )


class _Sight:
    """Finds the file in the volumes of one point after the other."""

    def __init__(self, wanted: WantedFile, digests: bool) -> None:
        self._wanted = wanted
        self._digests = digests
        #: The disk and the volume that had the path.
        self._found: tuple[str, str] | None = None
        self.missing: NoSuchFile | None = None

    def look(self, volumes: Volumes) -> _Seen:
        """Return the file at this point. Raises StoredDamage, FileSystemError, UsageError."""
        try:
            place = self._located(volumes)
        except NoSuchFile as error:
            self.missing = error
            return _NOT_THERE
        self._found = (place.volume.disk.disk_id, place.volume.name)
        return _Seen(place.node, _digest(place) if self._digests else None)

    def _located(self, volumes: Volumes) -> Place:
        path, name = self._wanted.path, self._wanted.volume
        if name is None and self._found is not None:
            for volume in volumes.all:
                if (volume.disk.disk_id, volume.name) == self._found and volume.readable:
                    return Place(volume, path, look_up(volumes.open(volume), path))
        return volumes.locate(path, name)


def _digest(place: Place) -> str | None:
    if place.node.kind is not EntryKind.FILE:
        return None
    hasher = blake3.blake3()
    for piece in read_file(place):
        hasher.update(piece)
    return hasher.hexdigest()
