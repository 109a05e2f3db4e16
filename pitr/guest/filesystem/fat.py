# SPDX-License-Identifier: GPL-2.0-or-later
"""FAT12, FAT16 and FAT32, read by dissect.fat.

pitr follows the chains of clusters: the library joins clusters that are not adjacent, and follows a circular chain for
ever.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from typing import Any

from dissect.fat import fat

from pitr.guest.filesystem.base import EntryKind, FileContent, FileSystem, Node
from pitr.guest.filesystem.volume import VolumeFile

_END = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}
_CLEAN = {16: 0x8000, 32: 0x08000000}
_NO_LABEL = "NO NAME"
_LOWER_BASE = 0x08
_LOWER_EXTENSION = 0x10
_BASE = 2  # the number of the first cluster that holds data


class _Chains(fat.FAT):  # type: ignore[misc]
    """The allocation table. Its chains end, and its runs are exact."""

    def runlist(self, cluster: int) -> Iterator[tuple[int, int]]:
        start, count = cluster, 0
        for _ in range(self.entry_count + 1):
            if not _BASE <= cluster < self.entry_count:
                raise ValueError(f"a chain leads to cluster {cluster}")
            if cluster == start + count:
                count += 1
            else:
                yield start - _BASE, count
                start, count = cluster, 1
            following = self.get(cluster)
            if following >= _END[self.bits_per_entry]:
                yield start - _BASE, count
                return
            cluster = following
        raise ValueError("a circular chain of clusters")


class Fat(FileSystem):
    """FAT12, FAT16 and FAT32. Times are the local times of the guest; pitr reads them as UTC."""

    case_sensitive = False

    def __init__(self, volume: VolumeFile, name: str) -> None:
        super().__init__(volume, name)
        with self.guarded("its boot sector"):
            self._fs = fat.FATFS(volume)
            self._fs.fat = _Chains(self._fs.fat.fh, self._fs.type)
            bits = self._fs.fat.bits_per_entry
            if bits in _CLEAN and not self._fs.fat.get(1) & _CLEAN[bits]:
                self.note = "it was in use: the last changes may be missing"
            self.label = "" if self._fs.volume_label == _NO_LABEL else self._fs.volume_label
        self.kind = f"fat{bits}"
        self._data_at = self._fs.first_data_sector * self._fs.sector_size

    def _root(self) -> Any:
        return self._fs.root

    def _look(self, handle: Any) -> Node:
        folder = handle.is_directory()
        root = handle is self._fs.root
        return Node(
            # An empty file has no cluster. Only its entry identifies it.
            key="root" if root else handle.cluster or id(handle),
            kind=EntryKind.FOLDER if folder else EntryKind.FILE,
            size=0 if folder else handle.dirent.DIR_FileSize,
            mode=None,
            mtime_ns=0 if root else calendar.timegm(handle.mtime.timetuple()) * 10**9,
            uid=None,
            gid=None,
            handle=handle,
        )

    def _list(self, folder: Node) -> Iterator[tuple[str, Any]]:
        handle = folder.handle
        if handle is not self._fs.root and not handle.cluster:
            raise ValueError("a folder without a cluster")
        for entry in handle.iterdir():
            if not entry.is_volume_id():
                yield _name(entry), entry

    def _target(self, link: Node) -> str:
        raise ValueError("FAT has no links")

    def _content(self, file: Node) -> FileContent:
        content = self.runs(file.size, self._places(file))
        if sum(length for _, length in content.data) != file.size:
            raise ValueError("a chain of clusters is too short")
        return content

    def _places(self, file: Node) -> Iterator[tuple[int, int, int]]:
        if not file.size:
            return
        start, cluster_size = 0, self._fs.cluster_size
        for cluster, count in self._fs.fat.runlist(file.handle.cluster):
            yield start, count * cluster_size, self._data_at + cluster * cluster_size
            start += count * cluster_size


def _name(handle: Any) -> str:
    """Return a short name. Two bits of Windows NT say which of its parts are lower case."""
    if handle.ldirents:
        return str(handle.name)
    base, dot, extension = str(handle.short_name).partition(".")
    flags = handle.dirent.DIR_NTRes
    return (
        (base.lower() if flags & _LOWER_BASE else base)
        + dot
        + (extension.lower() if flags & _LOWER_EXTENSION else extension)
    )
