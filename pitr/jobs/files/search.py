# SPDX-License-Identifier: GPL-2.0-or-later
"""Find files by a pattern, at one point or at all points of a VM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from pitr.errors import FileSystemError
from pitr.guest.filesystem import EntryKind, Node
from pitr.guest.filesystem.paths import look_up
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.list import list_files
from pitr.jobs.files.volumes import GuestVolume, Place, Volumes
from pitr.jobs.files.walk import PointWalk, UnreadPoint
from pitr.model import Backup
from pitr.reporting import Notify, Progress
from pitr.repository import Repository

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class WantedFiles:
    """What to find: names that match `pattern` as in a shell; with a slash in it, whole paths.

    `newer_than`: only files whose content was changed after this time, by the guest's clock. `disk` and `volume` limit
    the search.
    """

    pattern: str
    newer_than: datetime | None = None
    disk: str | None = None
    volume: str | None = None
    reader: FileReader = FileReader.OWN

    def fits(self, path: str, node: Node) -> bool:
        """Return whether this file is wanted."""
        name = path if "/" in self.pattern else path.rpartition("/")[2]
        if not fnmatchcase(name, self.pattern):
            return False
        if self.newer_than is None:
            return True
        return (
            node.kind is EntryKind.FILE
            and node.mtime_ns > (self.newer_than - _EPOCH) // timedelta(microseconds=1) * 1000
        )


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file in one state, and the points that have it, oldest first. `volume` is the disk id and the volume's name."""

    volume: tuple[str, str]
    path: str
    node: Node
    points: list[Backup]


@dataclass(slots=True)
class FoundFiles:
    """All found files, ordered by path and time; folders and volumes that cannot be read, and points."""

    files: list[FoundFile] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    unread: list[UnreadPoint] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _AtPoint:
    files: Sequence[tuple[tuple[str, str], str, Node]]
    problems: Sequence[tuple[str, str]]


def find_files(
    repository: Repository,
    backups: Sequence[Backup],
    wanted: WantedFiles,
    *,
    notify: Notify = lambda line: None,
    progress: Progress | None = None,
) -> FoundFiles:
    """Search the points `backups`, oldest first. A file that is equal at several points is found once.

    Raises NoSuchFile and UsageError for a volume that does not exist.
    """
    found = FoundFiles()
    states: dict[tuple[tuple[str, str], str], list[FoundFile]] = {}
    walk = PointWalk(
        repository,
        lambda volumes: _search(volumes, wanted),
        _AtPoint((), ()),
        disk=wanted.disk,
        reader=wanted.reader,
        notify=notify,
    )
    for backup, seen in walk.over(backups, found.unread, progress):
        found.problems += [problem for problem in seen.problems if problem not in found.problems]
        for volume, path, node in seen.files:
            of_path = states.setdefault((volume, path), [])
            if of_path and _state(of_path[-1].node) == _state(node):
                of_path[-1].points.append(backup)
            else:
                of_path.append(FoundFile(volume, path, node, [backup]))
    found.files = [file for _, of_path in sorted(states.items()) for file in of_path]
    return found


def _state(node: Node) -> tuple[object, ...]:
    return node.kind, node.size, node.mtime_ns, node.mode, node.uid, node.gid


def _search(volumes: Volumes, wanted: WantedFiles) -> _AtPoint:
    files: list[tuple[tuple[str, str], str, Node]] = []
    problems: list[tuple[str, str]] = []
    searched = [volumes.volume_named(wanted.volume)] if wanted.volume is not None else volumes.all
    for volume in searched:
        if not volume.readable:
            continue
        name = (volume.disk.disk_id, volume.name)
        try:
            for path, node, problem in _all_files(volumes, volume):
                if problem is not None:
                    problems.append((path, problem))
                elif node is not None and wanted.fits(path, node):
                    files.append((name, path, node))
        except FileSystemError as error:
            problems.append((f"volume {volume.name}", error.message))
    return _AtPoint(files, problems)


def _all_files(volumes: Volumes, volume: GuestVolume) -> Iterator[tuple[str, Node | None, str | None]]:
    root = Place(volume, "/", look_up(volumes.open(volume), "/"))
    for listed in list_files(root, recursive=True):
        yield listed.path, listed.node, listed.problem
