# SPDX-License-Identifier: GPL-2.0-or-later
"""The common part of all file systems: nodes, the entries of folders, and the places of a file's bytes."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from pitr.errors import FileSystemError, PitrError
from pitr.guest.filesystem.limits import bounded_step
from pitr.guest.filesystem.volume import VolumeFile
from pitr.units import MIB

#: Files are read in pieces of at most this many bytes.
PIECE = MIB
#: Linux allows 4096. A longer target comes from a damaged link.
LONGEST_TARGET = 1 << 16


class EntryKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    DEVICE = "device"
    PIPE = "pipe"
    SOCKET = "socket"
    UNKNOWN = "unknown"


_KINDS = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.FOLDER,
    stat.S_IFLNK: EntryKind.LINK,
    stat.S_IFBLK: EntryKind.DEVICE,
    stat.S_IFCHR: EntryKind.DEVICE,
    stat.S_IFIFO: EntryKind.PIPE,
    stat.S_IFSOCK: EntryKind.SOCKET,
}


def kind_of(mode: int) -> EntryKind:
    """Return the kind for the upper bits of a Unix mode."""
    return _KINDS.get(stat.S_IFMT(mode), EntryKind.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or link. `size` is bytes, `mtime_ns` nanoseconds since 1970 UTC.

    `key` identifies a node in its file system. `mode` holds the permission bits; `mode`, `uid` and `gid` are None when
    the file system has none. `handle` is the library's object. `unreadable` says why pitr cannot read the bytes.
    """

    key: Hashable
    kind: EntryKind
    size: int
    mode: int | None
    mtime_ns: int
    uid: int | None
    gid: int | None
    handle: Any
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A name in a folder. Without a node, `problem` says why pitr could not read it."""

    name: str
    node: Node | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FileContent:
    """The bytes of a file of `size` bytes. `data` lists its stored ranges (start, length); the rest is zero.

    `read` returns a part of one range. `places` holds the offsets of the ranges in the volume, or None when the volume
    stores them in another form.
    """

    size: int
    data: Sequence[tuple[int, int]]
    read: Callable[[int, int], bytes]
    places: Sequence[int] | None = None


class FileSystem(ABC):
    """A file system in a volume, for one thread at a time.

    All methods raise FileSystemError when the file system is damaged, and StoredDamage when the repository is.
    """

    #: Whether "A" and "a" are different names.
    case_sensitive: ClassVar[bool] = True
    #: Whether two ranges never share their bytes, so that a file is never larger than the volume.
    exclusive: ClassVar[bool] = True

    def __init__(self, volume: VolumeFile, name: str) -> None:
        """Open the file system. `name` names it in messages: "the ext4 file system on volume 1"."""
        self.volume = volume
        self.name = name
        self.label = ""
        self.kind = ""
        #: Why the newest changes may be missing, or None.
        self.note: str | None = None
        #: Whether changes are missing for sure: a journal or log holds them, and this reader does not replay it.
        self.incomplete = False

    # Each file system implements these

    @abstractmethod
    def _root(self) -> Any:
        """Return the handle of the root folder."""

    @abstractmethod
    def _look(self, handle: Any) -> Node: ...

    @abstractmethod
    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        """Yield names and handles. "." and ".." may be included."""

    @abstractmethod
    def _target(self, link: Node) -> str: ...

    @abstractmethod
    def _content(self, file: Node) -> FileContent: ...

    # Callers use these, which are guarded

    def root(self) -> Node:
        with self.guarded("its root folder"):
            return self._look(self._root())

    def entries(self, folder: Node) -> Iterator[FolderEntry]:
        """Yield the entries of a folder in the order of the disk."""
        with self.guarded("a folder"):
            listing = iter(self._list(folder))
        while True:
            with self.guarded("a folder"):
                entry = next(listing, None)
            if entry is None:
                return
            name, handle = entry
            if name in (".", ".."):
                continue
            try:
                with self.guarded("an entry"):
                    node = self._look(handle)
            except FileSystemError as error:
                yield FolderEntry(name, None, error.message)
            else:
                yield FolderEntry(name, node)

    def child(self, folder: Node, name: str) -> Node | None:
        """Return the node of this name in a folder, or None. Read no other node."""
        wanted = name if self.case_sensitive else name.casefold()
        with self.guarded("a folder"):
            for entry, handle in self._list(folder):
                if (entry if self.case_sensitive else entry.casefold()) == wanted:
                    return self._look(handle)
        return None

    def target(self, link: Node) -> str:
        with self.guarded("a link"):
            target = self._target(link)
            if len(target) > LONGEST_TARGET or not target:
                raise ValueError(f"a target of {len(target)} characters")
            return target

    def content(self, file: Node) -> FileContent:
        """Return the places of a file's bytes. Raises FileSystemError, also for a file that pitr cannot read."""
        if file.unreadable is not None:
            raise FileSystemError(f"cannot read a file of {self.name}: {file.unreadable}")
        with self.guarded("a file"):
            return self._content(file)

    def pieces(self, content: FileContent) -> Iterator[tuple[int, bytes]]:
        """Yield the stored bytes of a file with their offsets, in order, in pieces of at most 1 MiB."""
        for start, length in content.data:
            for offset in range(start, start + length, PIECE):
                count = min(PIECE, start + length - offset)
                with self.guarded("a file"):
                    data = content.read(offset, count)
                    if len(data) != count:
                        raise EOFError(f"{len(data)} bytes instead of {count}")
                yield offset, data

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn any error of a library about damaged structures into FileSystemError, and limit its processor time."""
        try:
            with bounded_step():
                yield
        except PitrError:
            raise
        except Exception as error:
            raise FileSystemError(
                f"{self.name} is damaged: cannot read {what} ({type(error).__name__}: {str(error)[:200]})",
                "Other files may be readable. An earlier or later point may hold this one.",
            ) from error

    # Most file systems use these

    def runs(self, size: int, runs: Iterable[tuple[int, int, int]]) -> FileContent:
        """Return the content for runs of bytes in the volume: (offset in the file, length, offset in the volume).

        Raises ValueError for runs that are out of order, overlap, or are outside the volume.
        """
        if size < 0:
            raise ValueError(f"a file of {size} bytes")
        starts: list[tuple[int, int, int]] = []
        end = total = 0
        for start, length, at in runs:
            if start < end or length <= 0:
                raise ValueError("overlapping pieces")
            end = start + length
            kept = min(length, size - start)
            if kept <= 0:
                continue  # reserved behind the end of the file
            if at < 0 or at + kept > self.volume.size:
                raise ValueError("a piece outside the volume")
            total += kept
            if self.exclusive and total > self.volume.size:
                raise ValueError("more bytes than the volume")
            last = starts[-1] if starts else (0, 0, 0)
            if starts and last[0] + last[1] == start and last[2] + last[1] == at:
                starts[-1] = (last[0], last[1] + kept, last[2])
            else:
                starts.append((start, kept, at))
        begin = [start for start, _, _ in starts]

        def read(offset: int, length: int) -> bytes:
            start, _, at = starts[bisect_right(begin, offset) - 1]
            return self.volume.read_at(at + offset - start, length)

        data = [(start, length) for start, length, _ in starts]
        return FileContent(size, data, read, [at for _, _, at in starts])


def of_bytes(data: bytes, size: int) -> FileContent:
    """Return the content for bytes stored with the file's metadata. Raises ValueError when some are missing."""
    if len(data) < size:
        raise ValueError(f"{len(data)} bytes of {size}")
    return FileContent(
        size, [(0, size)] if size else [], lambda offset, length: data[offset : offset + length]
    )
