# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the files of two points: added, removed and changed files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pitr.endpoints.points.difference import open_difference
from pitr.errors import FileSystemError
from pitr.extents import ExtentMap
from pitr.guest.filesystem import EntryKind, FileContent, FileSystem, FolderEntry, Node
from pitr.guest.filesystem.limits import unbounded_memory
from pitr.guest.filesystem.volume import DiskRange
from pitr.jobs import lineage
from pitr.jobs.files.volumes import Place
from pitr.model import Backup, Stream
from pitr.repository import Repository

_DEEPEST = 400


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. `change` is A (added), D (removed), M (changed) or ! (pitr cannot compare it).

    `what` lists the changed properties (kind, size, time, mode, owner, target, content), or the problem.
    """

    change: str
    path: str
    before: Node | None
    after: Node | None
    what: tuple[str, ...] = ()


def changed_ranges(
    repository: Repository, since: Backup, backup: Backup, streams: Sequence[Stream]
) -> dict[str, ExtentMap]:
    """Return the ranges that differ between two points, by disk id, from the extent indexes. Raises StoredDamage."""
    changed: dict[str, ExtentMap] = {}
    for stream in streams:
        older = lineage.counterpart(repository, since, stream)
        if older is not None:
            with (
                unbounded_memory(),
                open_difference(repository, (since, older), backup, stream) as difference,
            ):
                changed[stream.disk_id] = difference.extents()
    return changed


def compare_files(
    before: Place | None,
    after: Place | None,
    *,
    content: bool = False,
    changed: Mapping[str, ExtentMap] | None = None,
) -> Iterator[Change]:
    """Yield all differences below two places, ordered by path; None is a place that does not exist.

    `content` also compares the bytes of files of equal size. pitr does not read files outside the `changed` ranges
    (see `changed_ranges`). Raises FileSystemError and StoredDamage if it cannot complete the comparison.
    """
    path = after.path if after is not None else before.path if before is not None else "/"
    comparison = _FolderComparison(
        before.file_system if before is not None else None,
        after.file_system if after is not None else None,
        content,
        changed or {},
    )
    yield from comparison.nodes(
        path, before.node if before is not None else None, after.node if after is not None else None, 0
    )


class _FolderComparison:
    def __init__(
        self,
        before: FileSystem | None,
        after: FileSystem | None,
        content: bool,
        changed: Mapping[str, ExtentMap],
    ) -> None:
        self._before = before
        self._after = after
        self._content = content
        self._changed = changed
        #: The listed folders of the later point (True) and the earlier one (False), to detect circles.
        self._seen: set[tuple[bool, object]] = set()

    def nodes(self, path: str, before: Node | None, after: Node | None, depth: int) -> Iterator[Change]:
        if before is None or after is None:
            only = after if after is not None else before
            if only is None:
                return
            yield Change("A" if before is None else "D", path, before, after)
        else:
            try:
                what = self._different(before, after)
            except FileSystemError as error:
                yield Change("!", path, before, after, (error.message,))
                what = ()
            if what:
                yield Change("M", path, before, after, what)
        yield from self._inside(path, before, after, depth)

    def _inside(self, path: str, before: Node | None, after: Node | None, depth: int) -> Iterator[Change]:
        folders = [node for node in (before, after) if node is not None and node.kind is EntryKind.FOLDER]
        if not folders:
            return
        keys = {(node is after, node.key) for node in folders}
        if depth >= _DEEPEST or keys & self._seen:
            yield Change("!", path, before, after, ("the folders form a circle or are nested too deeply",))
            return
        self._seen |= keys
        try:
            old, new = self._list(self._before, before), self._list(self._after, after)
        except FileSystemError as error:
            yield Change("!", path, before, after, (error.message,))
        else:
            for name in sorted(old.keys() | new.keys()):
                inner = f"{path.rstrip('/')}/{name}"
                problems = [
                    entry.problem or ""
                    for entry in (old.get(name), new.get(name))
                    if entry is not None and entry.node is None
                ]
                if problems:
                    yield Change("!", inner, None, None, tuple(problems))
                    continue
                yield from self.nodes(inner, _node(old.get(name)), _node(new.get(name)), depth + 1)

    def _list(self, file_system: FileSystem | None, folder: Node | None) -> dict[str, FolderEntry]:
        if file_system is None or folder is None or folder.kind is not EntryKind.FOLDER:
            return {}
        return {entry.name: entry for entry in file_system.entries(folder)}

    def _different(self, before: Node, after: Node) -> tuple[str, ...]:
        if before.kind is not after.kind:
            return ("kind",)
        differences = [
            name
            for name, differs in (
                ("size", before.size != after.size),
                # A folder's time changes with its entries, which are reported separately.
                ("time", before.mtime_ns != after.mtime_ns and before.kind is not EntryKind.FOLDER),
                ("mode", before.mode != after.mode),
                ("owner", (before.uid, before.gid) != (after.uid, after.gid)),
            )
            if differs
        ]
        if before.kind is EntryKind.LINK and self._target(self._before, before) != self._target(
            self._after, after
        ):
            differences.append("target")
        if (
            self._content
            and before.kind is EntryKind.FILE
            and "size" not in differences
            and self._bytes_differ(before, after)
        ):
            differences.append("content")
        return tuple(differences)

    def _target(self, file_system: FileSystem | None, link: Node) -> str:
        return "" if file_system is None else file_system.target(link)

    def _bytes_differ(self, before: Node, after: Node) -> bool:
        if self._before is None or self._after is None:
            return True
        old, new = self._before.content(before), self._after.content(after)
        if self._untouched(self._before, old, self._after, new):
            return False
        older, newer = _FileBytes(self._before, old), _FileBytes(self._after, new)
        return any(older.read(start, end) != newer.read(start, end) for start, end in _data_ranges(old, new))

    def _untouched(self, before: FileSystem, old: FileContent, after: FileSystem, new: FileContent) -> bool:
        """Return whether both files are in the same places of the same disks, and nothing changed there."""
        if old.places is None or (list(old.data), old.places) != (list(new.data), new.places):
            return False
        for (_, length), at in zip(old.data, old.places, strict=True):
            spans = after.volume.spans(at, length)
            if _places(spans) != _places(before.volume.spans(at, length)):
                return False
            for span in spans:
                changed = self._changed.get(span.disk)
                if changed is None or len(changed.between(span.offset, span.offset + span.length)):
                    return False
        return True


def _places(spans: Sequence[DiskRange]) -> list[tuple[str, int, int]]:
    return [(span.disk, span.offset, span.length) for span in spans]


def _node(entry: FolderEntry | None) -> Node | None:
    return None if entry is None else entry.node


def _data_ranges(old: FileContent, new: FileContent) -> Iterator[tuple[int, int]]:
    """Yield the ranges in which a file holds data, as (start, end) in bytes, at most 1 MiB each."""
    piece = 1 << 20
    covered = 0
    for start, length in sorted([*old.data, *new.data]):
        at, end = max(start, covered), start + length
        while at < end:
            upto = min(at + piece, end)
            yield at, upto
            at = upto
        covered = max(covered, end)


class _FileBytes:
    """The bytes of a file, read in ascending order; holes are zeroes."""

    def __init__(self, file_system: FileSystem, content: FileContent) -> None:
        self._file_system = file_system
        self._content = content
        self._next = 0

    def read(self, start: int, end: int) -> bytes:
        data = bytearray(end - start)
        ranges = self._content.data
        while self._next < len(ranges) and sum(ranges[self._next]) <= start:
            self._next += 1
        number = self._next
        while number < len(ranges) and ranges[number][0] < end:
            begin = max(ranges[number][0], start)
            stop = min(sum(ranges[number]), end)
            part = FileContent(self._content.size, [(begin, stop - begin)], self._content.read)
            for offset, piece in self._file_system.pieces(part):
                data[offset - start : offset - start + len(piece)] = piece
            number += 1
        return bytes(data)
