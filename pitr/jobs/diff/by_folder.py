# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that differ between two points, counted for each folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pitr.errors import FileSystemError
from pitr.guest.filesystem import EntryKind, Node
from pitr.guest.filesystem.paths import look_up
from pitr.jobs import lineage
from pitr.jobs.files.compare import Change, compare_files
from pitr.jobs.files.guestfs_reader import FileReader
from pitr.jobs.files.volumes import GuestVolume, Place, Volumes, open_volumes
from pitr.model import Backup, Stream
from pitr.reporting import Notify
from pitr.repository import Repository


@dataclass(slots=True)
class ChangedFiles:
    """How many files were added, removed and changed, and their bytes; those of changed files at the later point."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    added_bytes: int = 0
    removed_bytes: int = 0
    changed_bytes: int = 0

    @property
    def files(self) -> int:
        return self.added + self.removed + self.changed

    @property
    def bytes(self) -> int:
        return self.added_bytes + self.removed_bytes + self.changed_bytes

    def count(self, change: Change) -> None:
        """Count a change of a file."""
        before, after = _size(change.before), _size(change.after)
        if change.change == "A":
            self.added += 1
            self.added_bytes += after
        elif change.change == "D":
            self.removed += 1
            self.removed_bytes += before
        else:
            self.changed += 1
            self.changed_bytes += after

    def add(self, other: ChangedFiles) -> None:
        """Add the figures of another folder."""
        self.added += other.added
        self.removed += other.removed
        self.changed += other.changed
        self.added_bytes += other.added_bytes
        self.removed_bytes += other.removed_bytes
        self.changed_bytes += other.changed_bytes


def _size(node: Node | None) -> int:
    return node.size if node is not None and node.kind is EntryKind.FILE else 0


@dataclass(frozen=True, slots=True, order=True)
class Folder:
    """A folder on a volume of a disk. `disk` is the disk's name."""

    disk_id: str
    disk: str = field(compare=False)
    volume: str
    path: str


@dataclass(slots=True)
class FilesDiff:
    """The folders with files that differ, each without the folders in it.

    `notes` says for volumes why changes may be missing (volume, note), `incomplete` that some are for sure. `problems`
    are files, folders and volumes that cannot be compared: path and message.
    """

    folders: dict[Folder, ChangedFiles] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    incomplete: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def total(self) -> ChangedFiles:
        return _sum(self.folders.values())

    def joined(self, most: int) -> dict[Folder, ChangedFiles]:
        """Return the deepest level of folders that has at most `most`, each with the figures of all folders below."""
        deepest = max((_depth(folder) for folder in self.folders), default=0)
        for depth in range(deepest, -1, -1):
            joined: dict[Folder, ChangedFiles] = {}
            for folder, figures in self.folders.items():
                joined.setdefault(_above(folder, depth), ChangedFiles()).add(figures)
            if len(joined) <= most or depth == 0:
                break
        return joined


def _sum(figures: Iterable[ChangedFiles]) -> ChangedFiles:
    total = ChangedFiles()
    for each in figures:
        total.add(each)
    return total


def _depth(folder: Folder) -> int:
    return len(_parts(folder.path))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _above(folder: Folder, depth: int) -> Folder:
    path = "/" + "/".join(_parts(folder.path)[:depth])
    return Folder(folder.disk_id, folder.disk, folder.volume, path)


def diff_files(
    repository: Repository,
    before: Backup,
    after: Backup,
    streams: Sequence[Stream],
    *,
    reader: FileReader | None = None,
    notify: Notify = lambda line: None,
) -> FilesDiff:
    """Compare the files on these disks of `after` with those at `before`, by size, time, mode and owner.

    Raises StoredDamage, ProgramMissing, RepositoryError.
    """
    found = FilesDiff()
    older = {stream.disk_id: lineage.counterpart(repository, before, stream) for stream in streams}
    known = [stream for stream in older.values() if stream is not None]
    with (
        open_volumes(repository, before, known, notify, reader) as old,
        open_volumes(repository, after, streams, notify, reader) as new,
    ):
        twins = {(volume.disk.disk_id, volume.name): volume for volume in old.all if volume.readable}
        for volume in new.all:
            if volume.readable:
                stream = older[volume.disk.disk_id]
                twin = twins.pop((stream.disk_id, volume.name), None) if stream is not None else None
                _compare((old, twin), (new, volume), found)
        for twin in twins.values():
            _compare((old, twin), (new, None), found)
    return found


def _compare(
    old: tuple[Volumes, GuestVolume | None], new: tuple[Volumes, GuestVolume | None], found: FilesDiff
) -> None:
    volume = new[1] or old[1]
    if volume is None:
        return
    try:
        before, after = _root(*old), _root(*new)
        for change in compare_files(before, after):
            _count(volume, change, found)
    except FileSystemError as error:
        found.problems.append((f"volume {volume.name}", error.message))
    for each in (old[1], new[1]):
        if each is not None and each.note is not None:
            note = (each.name, each.note)
            found.incomplete = found.incomplete or each.incomplete
            if note not in found.notes:
                found.notes.append(note)


def _root(volumes: Volumes, volume: GuestVolume | None) -> Place | None:
    return Place(volume, "/", look_up(volumes.open(volume), "/")) if volume is not None else None


def _count(volume: GuestVolume, change: Change, found: FilesDiff) -> None:
    if change.change == "!":
        found.problems.append((change.path, "; ".join(change.what)))
        return
    for part in _of_files(change):
        folder = change.path.rpartition("/")[0] or "/"
        key = Folder(volume.disk.disk_id, volume.disk.name, volume.name, folder)
        found.folders.setdefault(key, ChangedFiles()).count(part)


def _of_files(change: Change) -> Iterator[Change]:
    """Yield the part of a change that is about files and links: folders count by the files in them."""
    before = (
        change.before if change.before is not None and change.before.kind is not EntryKind.FOLDER else None
    )
    after = change.after if change.after is not None and change.after.kind is not EntryKind.FOLDER else None
    if before is not None and after is not None:
        yield change
    elif after is not None:
        yield Change("A", change.path, None, after)
    elif before is not None:
        yield Change("D", change.path, before, None)
