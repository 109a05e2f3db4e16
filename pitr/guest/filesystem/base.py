# SPDX-License-Identifier: GPL-2.0-or-later
"""What all file systems have in common: nodes, the entries of folders, and where a file's bytes lie."""

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
#: Linux allows 4096; a larger target belongs to a damaged link.
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
    """The kind that the upper bits of a Unix mode say."""
    return _KINDS.get(stat.S_IFMT(mode), EntryKind.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or link. `size` is bytes, `mtime_ns` nanoseconds since 1970 UTC.

    `key` tells nodes of one file system apart. `mode` has the permission bits, None where the file system has none,
    as `uid` and `gid`. `handle` is what the library knows it by. `unreadable` says why a file's bytes cannot be read.
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
class Entry:
    """A name in a folder; without a node `problem` says why it could not be looked at."""

    name: str
    node: Node | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FileContent:
    """The bytes of a file of `size` bytes: `data` are its ranges (start, length) that are stored, all else is zero.

    `read` gives the bytes of a part of one range. `places` are the offsets of the ranges in the volume, None where
    they lie there in another form.
    """

    size: int
    data: Sequence[tuple[int, int]]
    read: Callable[[int, int], bytes]
    places: Sequence[int] | None = None


class FileSystem(ABC):
    """A file system in a volume. Used by one thread at a time.

    All methods raise FileSystemError where it is damaged, and StoredDamage where the repository is.
    """

    #: Whether "A" and "a" are two names.
    case_sensitive: ClassVar[bool] = True
    #: Whether a file cannot hold more bytes than the volume: there, no two ranges share their bytes.
    exclusive: ClassVar[bool] = True

    def __init__(self, volume: VolumeFile, name: str) -> None:
        """`name` says in messages which one it is: "the ext4 file system on volume 1"."""
        self.volume = volume
        self.name = name
        self.label = ""
        self.kind = ""
        #: Why the newest changes may not be seen, or None.
        self.note: str | None = None

    # What a file system has to tell

    @abstractmethod
    def _root(self) -> Any:
        """The handle of the root folder."""

    @abstractmethod
    def _look(self, handle: Any) -> Node: ...

    @abstractmethod
    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        """Names and handles; "." and ".." may be among them."""

    @abstractmethod
    def _target(self, link: Node) -> str: ...

    @abstractmethod
    def _content(self, file: Node) -> FileContent: ...

    # What users get, guarded

    def root(self) -> Node:
        with self.guarded("its root folder"):
            return self._look(self._root())

    def entries(self, folder: Node) -> Iterator[Entry]:
        """All that is in a folder, in the order of the disk."""
        with self.guarded("a folder"):
            listing = iter(self._list(folder))
        while True:
            with self.guarded("a folder"):
                found = next(listing, None)
            if found is None:
                return
            name, handle = found
            if name in (".", ".."):
                continue
            try:
                with self.guarded("an entry"):
                    node = self._look(handle)
            except FileSystemError as error:
                yield Entry(name, None, error.message)
            else:
                yield Entry(name, node)

    def child(self, folder: Node, name: str) -> Node | None:
        """The node of this name in a folder, None when there is none. No others are looked at."""
        wanted = name if self.case_sensitive else name.casefold()
        with self.guarded("a folder"):
            for found, handle in self._list(folder):
                if (found if self.case_sensitive else found.casefold()) == wanted:
                    return self._look(handle)
        return None

    def target(self, link: Node) -> str:
        with self.guarded("a link"):
            target = self._target(link)
            if len(target) > LONGEST_TARGET or not target:
                raise ValueError(f"a target of {len(target)} characters")
            return target

    def content(self, file: Node) -> FileContent:
        """Where the bytes of a file are. Raises FileSystemError, also for files that cannot be read here."""
        if file.unreadable is not None:
            raise FileSystemError(f"a file of {self.name} cannot be read: {file.unreadable}")
        with self.guarded("a file"):
            return self._content(file)

    def pieces(self, content: FileContent) -> Iterator[tuple[int, bytes]]:
        """The stored bytes of a file with their offsets, in order, in pieces of at most 1 MiB."""
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
        """Turn whatever a library makes of damaged structures into FileSystemError, and bound its time."""
        try:
            with bounded_step():
                yield
        except PitrError:
            raise
        except Exception as error:
            raise FileSystemError(
                f"{self.name} is damaged: {what} cannot be read ({type(error).__name__}: {str(error)[:200]})",
                "Other files may be whole. An earlier or later point may hold this one.",
            ) from error

    # What most have in common

    def runs(self, size: int, found: Iterable[tuple[int, int, int]]) -> FileContent:
        """The content of a file whose bytes lie in the volume: (offset in the file, length, offset in the volume).

        Raises ValueError for runs that are not in order, overlap, or lie outside of the volume.
        """
        if size < 0:
            raise ValueError(f"a file of {size} bytes")
        starts: list[tuple[int, int, int]] = []
        end = total = 0
        for start, length, at in found:
            if start < end or length <= 0:
                raise ValueError("pieces that overlap")
            end = start + length
            kept = min(length, size - start)
            if kept <= 0:
                continue  # reserved behind the end of the file
            if at < 0 or at + kept > self.volume.size:
                raise ValueError("a piece outside of the volume")
            total += kept
            if self.exclusive and total > self.volume.size:
                raise ValueError("more bytes than the volume holds")
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
    """A content that was stored with the file's own description. Raises ValueError when some of it is missing."""
    if len(data) < size:
        raise ValueError(f"{len(data)} bytes of {size}")
    return FileContent(
        size, [(0, size)] if size else [], lambda offset, length: data[offset : offset + length]
    )
